//! A fixture for the suite: a server or cluster that this process starts, or a server that already runs.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use kv_conformance::{Census, Faults, Fixture, Need};
use kv_core::{Environment, Kv, Limits, Registration, Registry};

use crate::cluster::Cluster;
use crate::error::Error;
use crate::kind::{Kind, address_from_environment};
use crate::options::Options;

/// etcd or Consul as a [`Fixture`], with all faults of a [`Cluster`].
///
/// If `KV_ETCD_ADDR` or `KV_CONSUL_ADDR` names a server, that server is used, without faults.
#[derive(Debug)]
pub struct ServerFixture {
    kind: Kind,
    name: String,
    registry: Registry,
    address: String,
    cluster: Option<Cluster>,
    effort: u32,
    /// The images to which members can be upgraded, in order, and how many of them each member has had.
    upgrades: Vec<String>,
    upgraded: Mutex<HashMap<usize, usize>>,
}

impl ServerFixture {
    /// Starts a store of this kind, unless the environment names one, and connects through the given backend.
    ///
    /// # Errors
    ///
    /// The reason why there is no server, and what to start or install.
    pub async fn start(kind: Kind, members: usize, options: Options, backend: Registration) -> Result<Self, Error> {
        let registry = Registry::new().with(backend);
        if let Some(address) = address_from_environment(kind) {
            return Ok(Self { name: kind.to_string(), registry, address, ..Self::blank(kind) });
        }
        // The suite is some hundred handles in one process. Together they have more connections than the 200 that an agent
        // serves from one address, and an agent closes the others with whatever they carry.
        let options = match kind {
            Kind::Consul => options.argument("-hcl=limits { http_max_conns_per_client = 5000 }"),
            Kind::Etcd => options,
        };
        let cluster = Cluster::start(kind, members, options).await?;
        let mut name = format!("{kind} {}", cluster.version().await?);
        if members > 1 {
            name = format!("{name} x {members}");
        }
        Ok(Self { name, registry, address: cluster.address(), cluster: Some(cluster), ..Self::blank(kind) })
    }

    fn blank(kind: Kind) -> Self {
        Self {
            kind,
            name: String::new(),
            registry: Registry::new(),
            address: String::new(),
            cluster: None,
            effort: 1,
            upgrades: Vec::new(),
            upgraded: Mutex::default(),
        }
    }

    /// Sets the images to which the case about upgrades upgrades members, one after the other.
    #[must_use]
    pub fn with_upgrades(mut self, images: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.upgrades = images.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the factor on the repetitions of random cases and of cases with faults.
    #[must_use]
    pub fn with_effort(mut self, effort: u32) -> Self {
        self.effort = effort;
        self
    }
}

#[async_trait]
impl Fixture for ServerFixture {
    fn name(&self) -> String {
        self.name.clone()
    }

    async fn connect(&self) -> kv_core::Result<Kv> {
        self.registry.connect(&self.address).await
    }

    fn effort(&self) -> u32 {
        self.effort
    }

    fn ttl(&self, limits: &Limits) -> Duration {
        // etcd grants at least two seconds, whatever the request says.
        let shortest = if self.kind == Kind::Etcd { 2000 } else { 500 };
        limits.min_ttl.max(Duration::from_millis(shortest))
    }

    fn address(&self) -> Option<(Registry, String)> {
        Some((self.registry.clone(), self.address.clone()))
    }

    fn environment(&self) -> Option<(Environment, String)> {
        let endpoints = self.cluster.as_ref()?.endpoints();
        let (variable, nowhere) = match self.kind {
            Kind::Etcd => ("ETCDCTL_ENDPOINTS", "etcd:///"),
            Kind::Consul => ("CONSUL_HTTP_ADDR", "consul:///"),
        };
        Some((Environment::from([(variable, endpoints.first()?.as_str())]), nowhere.to_owned()))
    }

    fn faults(&self) -> Option<&dyn Faults> {
        self.cluster.as_ref().map(|_| self as &dyn Faults)
    }
}

impl ServerFixture {
    fn cluster(&self) -> Result<&Cluster, String> {
        self.cluster.as_ref().ok_or_else(|| "this server was not started here".to_owned())
    }
}

#[async_trait]
impl Faults for ServerFixture {
    fn endpoints(&self) -> Vec<String> {
        self.cluster.as_ref().map(Cluster::endpoints).unwrap_or_default()
    }

    async fn connect_to(&self, endpoints: &[String]) -> kv_core::Result<Kv> {
        let cluster = self.cluster().map_err(kv_core::Error::invalid_address)?;
        self.registry.connect(&cluster.address_at(endpoints)).await
    }

    async fn census(&self) -> Result<Census, String> {
        self.cluster()?.census().await.map_err(|error| error.to_string())
    }

    async fn leader(&self) -> Result<usize, String> {
        self.cluster()?.await_leader(None).await.map_err(|error| error.to_string())
    }

    async fn serves(&self) -> bool {
        let Some(cluster) = &self.cluster else { return false };
        let asking = (0..cluster.members())
            .map(|member| Box::pin(async move { if cluster.reads(member).await { Ok(()) } else { Err(()) } }));
        futures_util::future::select_ok(asking).await.is_ok()
    }

    async fn kill(&self, member: usize) -> Result<(), String> {
        self.cluster()?.kill(member).await.map_err(|error| error.to_string())
    }

    async fn start_again(&self, member: usize) -> Result<(), String> {
        self.cluster()?.start_again(member).await.map_err(|error| error.to_string())
    }

    async fn restart(&self, member: usize) -> Result<(), String> {
        self.cluster()?.restart(member).await.map_err(|error| error.to_string())
    }

    async fn pause(&self, member: usize) -> Result<(), String> {
        self.cluster()?.pause(member).await.map_err(|error| error.to_string())
    }

    async fn resume(&self, member: usize) -> Result<(), String> {
        self.cluster()?.resume(member).await.map_err(|error| error.to_string())?;
        self.cluster()?.await_member(member).await.map_err(|error| error.to_string())
    }

    async fn isolate(&self, member: usize) -> Result<(), String> {
        self.cluster()?.isolate(member).await.map_err(|error| error.to_string())
    }

    async fn rejoin(&self, member: usize) -> Result<(), String> {
        self.cluster()?.rejoin(member).await.map_err(|error| error.to_string())?;
        self.cluster()?.await_member(member).await.map_err(|error| error.to_string())
    }

    async fn compact(&self) -> Result<(), String> {
        self.cluster()?.compact().await.map_err(|error| error.to_string())
    }

    fn offers(&self, need: Need) -> bool {
        self.cluster.as_ref().is_some_and(|cluster| cluster.offers(need))
    }

    async fn transfer_leader(&self, to: usize) -> Result<(), String> {
        self.cluster()?.transfer_leader(to).await.map_err(|error| error.to_string())
    }

    async fn defragment(&self, member: usize) -> Result<(), String> {
        self.cluster()?.defragment(member).await.map_err(|error| error.to_string())
    }

    async fn leave_and_return(&self, member: usize) -> Result<(), String> {
        self.cluster()?.leave_and_return(member).await.map_err(|error| error.to_string())
    }

    async fn save_history(&self) -> Result<(), String> {
        self.cluster()?.save_history().await.map_err(|error| error.to_string())
    }

    async fn replace_history(&self) -> Result<(), String> {
        self.cluster()?.replace_history().await.map_err(|error| error.to_string())
    }

    fn upgrades(&self) -> usize {
        self.upgrades.len()
    }

    async fn upgrade(&self, member: usize) -> Result<(), String> {
        let next = {
            let mut upgraded = self.upgraded.lock().unwrap_or_else(PoisonError::into_inner);
            let step = upgraded.entry(member).or_default();
            *step += 1;
            self.upgrades.get(*step - 1).ok_or("there is no later version")?
        };
        self.cluster()?.upgrade(member, next).await.map_err(|error| error.to_string())
    }
}
