//! What a backend gives the suite: connections to one store, and, where it can, the means to hurt it.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use kv_core::{Address, Environment, Error, Kv, Limits, Registry};

use crate::case::Need;

/// The store under test. It lives exactly as long as the run.
///
/// Only [`name`](Self::name) and [`connect`](Self::connect) must be written. Whatever else a fixture can offer opens
/// more cases; those it cannot offer are listed as not run, with the reason.
///
/// The store may hold other data and may be in use: every case keeps to a directory of its own and removes it
/// afterwards.
#[async_trait]
pub trait Fixture: Send + Sync + 'static {
    /// What the table and the test names call it, such as `etcd 3.5`.
    fn name(&self) -> String;

    /// Connects a new client that shares nothing with those before it but the store.
    ///
    /// # Errors
    /// What connecting said; the case that asked fails with it.
    async fn connect(&self) -> kv_core::Result<Kv>;

    /// The time to live of leases that a case lets lapse; the shortest at which the store keeps its promises.
    ///
    /// Two round trips of the slowest machine that runs the suite should fit into it several times.
    fn ttl(&self, limits: &Limits) -> Duration {
        limits.min_ttl.max(Duration::from_millis(500))
    }

    /// How long a case waits for what should happen at once. Only a broken store ever uses it up.
    fn patience(&self) -> Duration {
        Duration::from_secs(20)
    }

    /// How many times over the random cases try; 1 takes seconds on a real server.
    fn effort(&self) -> u32 {
        1
    }

    /// The directory for the history of a run that broke a clause, to be judged again; `None` keeps none.
    fn histories(&self) -> Option<PathBuf> {
        Some(std::env::temp_dir())
    }

    /// An address of the store and the backends to connect through, for the cases about addresses.
    fn address(&self) -> Option<(Registry, String)> {
        None
    }

    /// An address that names no server, such as `etcd://`, and an environment whose variables do, for clause A2.
    fn environment(&self) -> Option<(Environment, String)> {
        None
    }

    /// The means to hurt the store, for the cases about faults.
    fn faults(&self) -> Option<&dyn Faults> {
        None
    }
}

/// Faults of a server or of the members of a cluster, which are numbered from 0.
///
/// Every method returns once the fault is in effect; healing returns once the member takes part again. Cases with
/// faults run one at a time, and heal what they hurt, but a fixture should clean up after a case that failed as well.
#[async_trait]
pub trait Faults: Send + Sync {
    /// Where clients reach each member, as `host:port`.
    fn endpoints(&self) -> Vec<String>;

    /// Connects a client that knows these endpoints alone, and begins with the first of them.
    async fn connect_to(&self, endpoints: &[String]) -> kv_core::Result<Kv>;

    /// What the store holds on to for its clients.
    async fn census(&self) -> Result<Census, String>;

    /// The member that leads; of a single server, 0.
    async fn leader(&self) -> Result<usize, String>;

    /// Ends a member's process without warning; its data is kept.
    async fn kill(&self, member: usize) -> Result<(), String>;

    /// Starts a killed member again, with its data and at its old address.
    async fn start_again(&self, member: usize) -> Result<(), String>;

    /// Ends a member's process as for maintenance, and starts it again.
    async fn restart(&self, member: usize) -> Result<(), String> {
        self.kill(member).await?;
        self.start_again(member).await
    }

    /// Stops a member's process in its tracks; its connections stay open.
    async fn pause(&self, member: usize) -> Result<(), String>;

    /// Lets a paused member go on.
    async fn resume(&self, member: usize) -> Result<(), String>;

    /// Cuts a member off from its peers; clients still reach it.
    async fn isolate(&self, member: usize) -> Result<(), String>;

    /// Connects an isolated member to its peers again.
    async fn rejoin(&self, member: usize) -> Result<(), String>;

    /// Has the store forget its history up to now; only one whose watches deliver every change keeps any.
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

    /// How many later versions there are to which members can be upgraded, one after the other.
    fn upgrades(&self) -> usize {
        0
    }

    /// Stops a member as for maintenance, and starts it with its data in the next version.
    async fn upgrade(&self, _member: usize) -> Result<(), String> {
        Err("there is no later version of this store".to_owned())
    }
}

/// What a store holds on to for its clients: after they are gone, no more than before they came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Census {
    /// Connections, and whatever else a server counts as open with them.
    pub connections: usize,
    /// Leases or sessions.
    pub leases: usize,
    /// Keys in the whole store.
    pub keys: usize,
}

/// The store at an address: in memory, or on any server that runs.
///
/// ```
/// # use kv_conformance::{AddressFixture, Fixture as _};
/// # use kv_core::Registry;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), String> {
/// let registry = Registry::new().with(kv_memory::REGISTRATION);
/// let store = AddressFixture::new(registry.clone(), "memory://suite").await?;
/// assert_eq!(store.name(), "memory");
/// // Without a name each connection has a store of its own, and there is nothing to test.
/// assert!(AddressFixture::new(registry, "memory://").await.is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct AddressFixture {
    registry: Registry,
    address: String,
    /// Keeps a store alive that lives only as long as somebody is connected.
    first: Kv,
    patience: Duration,
    effort: u32,
}

impl AddressFixture {
    /// Connects to the store at an address, through the given backends.
    ///
    /// # Errors
    /// Why there is nothing to test: the store does not answer, or each connection gets a store of its own.
    pub async fn new(registry: Registry, address: &str) -> Result<Self, String> {
        let told = |error: Error| error.to_string();
        let first = registry.connect(address).await.map_err(told)?;
        let second = registry.connect(address).await.map_err(told)?;
        let key = format!("{}/here", crate::suite::unique_name());
        first.set(&key, "").await.map_err(told)?;
        let shared = second.get(&key).await;
        first.delete(&key).await.map_err(told)?;
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

    /// Waits this long for what should happen at once, instead of 20 s.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Has the random cases try this many times over.
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
