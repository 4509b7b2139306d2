//! What a backend provides to the suite: connections to one store and, where possible, fault injection.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use kv_core::backend::Address;
use kv_core::{Environment, Error, Kv, Limits, Registry};

use crate::need::Need;

/// The store under test. It lives exactly as long as the run.
///
/// Only [`name`](Self::name) and [`connect`](Self::connect) are required. Every other method enables more cases; cases
/// that need a method the fixture lacks are reported as not run, with the reason.
///
/// The store may hold other data and may be in use: every case works in a directory of its own and removes it
/// afterwards.
#[async_trait]
pub trait Fixture: Send + Sync + 'static {
    /// The store's name in the table and in test names, such as `etcd 3.5`.
    fn name(&self) -> String;

    /// Connects a new client that shares nothing but the store with earlier clients.
    ///
    /// # Errors
    /// The error of connecting. The case that asked for the client fails with it.
    async fn connect(&self) -> kv_core::Result<Kv>;

    /// The time to live of leases that a case lets lapse: the shortest at which the store keeps the contract.
    ///
    /// It should be several times as long as two round trips on the slowest machine that runs the suite.
    fn ttl(&self, limits: &Limits) -> Duration {
        limits.min_ttl.max(Duration::from_millis(500))
    }

    /// How long a case waits for something that should happen at once. Only a broken store reaches this bound.
    fn patience(&self) -> Duration {
        Duration::from_secs(20)
    }

    /// A factor on the repetitions of the random cases; 1 takes seconds on a real server.
    fn effort(&self) -> u32 {
        1
    }

    /// The directory where a run that broke a clause stores its history, to be judged again. `None` stores none.
    fn histories(&self) -> Option<PathBuf> {
        Some(std::env::temp_dir())
    }

    /// The store's address and the backends to connect through, for the cases about addresses.
    fn address(&self) -> Option<(Registry, String)> {
        None
    }

    /// An environment whose variables name the server, and an address that does not, such as `etcd://`.
    ///
    /// For the cases about the environment (clause [A2](kv_core::contract::CLAUSES#A2)).
    fn environment(&self) -> Option<(Environment, String)> {
        None
    }

    /// Fault injection, for the cases about faults.
    fn faults(&self) -> Option<&dyn Faults> {
        None
    }
}

/// Injects faults into a server or into the members of a cluster, which are numbered from 0.
///
/// A method that injects a fault returns once it is in effect; a method that heals returns once the member serves
/// again. Cases with faults run one at a time and heal what they injected. A fixture should also clean up after a case
/// that failed.
#[async_trait]
pub trait Faults: Send + Sync {
    /// The `host:port` of each member, as clients reach it.
    fn endpoints(&self) -> Vec<String>;

    /// Connects a client that knows only these endpoints; it may try them in any order.
    async fn connect_to(&self, endpoints: &[String]) -> kv_core::Result<Kv>;

    /// Counts the resources that the store holds for its clients.
    async fn census(&self) -> Result<Census, String>;

    /// The number of the leader; 0 for a single server.
    async fn leader(&self) -> Result<usize, String>;

    /// Whether the store can serve now: some member answers a linearizable read. It is asked several times a second.
    async fn serves(&self) -> bool {
        self.leader().await.is_ok()
    }

    /// Kills a member's process without warning. Its data is kept.
    async fn kill(&self, member: usize) -> Result<(), String>;

    /// Starts a killed member with its data and at its previous address.
    async fn start_again(&self, member: usize) -> Result<(), String>;

    /// Stops a member gracefully, as for maintenance, and starts it again.
    async fn restart(&self, member: usize) -> Result<(), String> {
        self.kill(member).await?;
        self.start_again(member).await
    }

    /// Pauses a member's process; its connections stay open.
    async fn pause(&self, member: usize) -> Result<(), String>;

    /// Resumes a paused member.
    async fn resume(&self, member: usize) -> Result<(), String>;

    /// Isolates a member from its peers; clients still reach it.
    async fn isolate(&self, member: usize) -> Result<(), String>;

    /// Reconnects an isolated member to its peers.
    async fn rejoin(&self, member: usize) -> Result<(), String>;

    /// Compacts the store's history up to now. Called only where watches deliver every change.
    async fn compact(&self) -> Result<(), String>;

    /// Whether the fixture has what a case needs of the methods below, which most stores lack some of.
    fn offers(&self, _need: Need) -> bool {
        false
    }

    /// Moves leadership from the member that leads to this one, as before its maintenance.
    async fn transfer_leader(&self, _to: usize) -> Result<(), String> {
        Err("leadership of this store cannot be moved".to_owned())
    }

    /// Has a member give back the space that its data no longer needs.
    async fn defragment(&self, _member: usize) -> Result<(), String> {
        Err("members of this store cannot be defragmented".to_owned())
    }

    /// Has a member leave the cluster in good order, and return to it.
    async fn leave_and_return(&self, _member: usize) -> Result<(), String> {
        Err("members of this store cannot leave".to_owned())
    }

    /// Keeps a copy of the store for [`replace_history`](Self::replace_history), if that restores one.
    async fn save_history(&self) -> Result<(), String> {
        Ok(())
    }

    /// Replaces the store at its address by an empty one, or by the copy that was saved.
    async fn replace_history(&self) -> Result<(), String> {
        Err("the history of this store cannot be replaced".to_owned())
    }

    /// How many later versions there are to which members can be upgraded, one after the other.
    fn upgrades(&self) -> usize {
        0
    }

    /// Stops a member as for maintenance, and starts it with its data in the next version.
    async fn upgrade(&self, _member: usize) -> Result<(), String> {
        Err("there is no later version of this store".to_owned())
    }
}

/// The resources that a store holds for its clients. After the clients are gone the numbers are those from before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Census {
    /// Connections, and whatever else the server counts together with them, such as open files.
    pub connections: usize,
    /// Leases or sessions.
    pub leases: usize,
    /// Keys in the whole store.
    pub keys: usize,
}

/// The store at an address: in memory, or on a running server.
///
/// ```
/// # use kv_conformance::{AddressFixture, Fixture as _};
/// # use kv_core::Registry;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), String> {
/// let registry = Registry::new().with(kv_memory::REGISTRATION);
/// let store = AddressFixture::new(registry.clone(), "memory://suite").await?;
/// assert_eq!(store.name(), "memory");
/// // Without a name each connection gets a store of its own, and there is nothing to test.
/// assert!(AddressFixture::new(registry, "memory://").await.is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct AddressFixture {
    registry: Registry,
    address: String,
    /// Keeps a store alive that exists only while a client is connected.
    first: Kv,
    patience: Duration,
    effort: u32,
}

impl AddressFixture {
    /// Connects to the store at an address, through the given backends.
    ///
    /// # Errors
    /// The reason why there is nothing to test: the store does not answer, or each connection gets a store of its own.
    pub async fn new(registry: Registry, address: &str) -> Result<Self, String> {
        let reason = |error: Error| error.to_string();
        let first = registry.connect(address).await.map_err(reason)?;
        let second = registry.connect(address).await.map_err(reason)?;
        let key = format!("{}/here", crate::names::unique_name());
        first.set(&key, "").await.map_err(reason)?;
        let shared = second.get(&key).await;
        first.delete(&key).await.map_err(reason)?;
        match shared {
            Ok(_) => {
                let patience = Duration::from_secs(20);
                Ok(Self { registry, address: address.to_owned(), first, patience, effort: 1 })
            }
            Err(error) if error.is_key_not_found() => {
                Err("each connection to this address has a store of its own; name one, as in `memory://suite`".into())
            }
            Err(error) => Err(error.to_string()),
        }
    }

    /// Sets how long to wait for something that should happen at once; 20 s by default.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Sets the factor on the repetitions of the random cases; 1 by default.
    #[must_use]
    pub fn with_effort(mut self, effort: u32) -> Self {
        self.effort = effort;
        self
    }
}

#[async_trait]
impl Fixture for AddressFixture {
    fn name(&self) -> String {
        self.first.backend_name().to_owned()
    }

    async fn connect(&self) -> kv_core::Result<Kv> {
        self.registry.connect(&self.address).await
    }

    fn patience(&self) -> Duration {
        self.patience
    }

    fn effort(&self) -> u32 {
        self.effort
    }

    fn address(&self) -> Option<(Registry, String)> {
        Some((self.registry.clone(), self.address.clone()))
    }
}

/// Whether the backend of an address speaks to a server over the network.
pub(crate) fn is_remote(registry: &Registry, address: &str) -> bool {
    Address::parse(address, Environment::default()).is_ok_and(|address| {
        let mut serving = registry.registrations().iter().filter(|one| one.schemes.contains(&&*address.scheme));
        serving.any(|one| one.generic_http)
    })
}
