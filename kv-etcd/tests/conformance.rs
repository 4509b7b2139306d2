//! The whole suite on a real etcd.

use std::process::ExitCode;
use std::time::Duration;

use async_trait::async_trait;
use kv_conformance::Fixture;
use kv_conformance::servers::{Cluster, Error, Kind, Options, address_from_environment};
use kv_core::{Environment, Kv, Limits, Registry};

struct Etcd {
    cluster: Option<Cluster>,
    address: String,
}

impl Etcd {
    async fn start() -> Result<Self, Error> {
        if let Some(address) = address_from_environment(Kind::Etcd) {
            return Ok(Self { cluster: None, address });
        }
        let cluster = Cluster::start(Kind::Etcd, 1, Options::default()).await?;
        Ok(Self { address: cluster.address(), cluster: Some(cluster) })
    }
}

#[async_trait]
impl Fixture for Etcd {
    fn name(&self) -> String {
        "etcd".to_owned()
    }

    async fn connect(&self) -> kv_core::Result<Kv> {
        Registry::new().with(kv_etcd::REGISTRATION).connect(&self.address).await
    }

    fn ttl(&self, _limits: &Limits) -> Duration {
        Duration::from_secs(2)
    }

    fn address(&self) -> Option<(Registry, String)> {
        Some((Registry::new().with(kv_etcd::REGISTRATION), self.address.clone()))
    }

    fn environment(&self) -> Option<(Environment, String)> {
        let endpoint = self.cluster.as_ref()?.endpoints().swap_remove(0);
        Some((Environment::from([("ETCDCTL_ENDPOINTS", endpoint.as_str())]), "etcd:///".to_owned()))
    }
}

fn main() -> ExitCode {
    kv_conformance::run(Etcd::start())
}
