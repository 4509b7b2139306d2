//! The whole suite on a real Consul.

use std::process::ExitCode;

use async_trait::async_trait;
use kv_conformance::Fixture;
use kv_conformance::servers::{Cluster, Error, Kind, Options, address_from_environment};
use kv_core::{Environment, Kv, Registry};

struct Consul {
    cluster: Option<Cluster>,
    address: String,
}

impl Consul {
    async fn start() -> Result<Self, Error> {
        if let Some(address) = address_from_environment(Kind::Consul) {
            return Ok(Self { cluster: None, address });
        }
        let cluster = Cluster::start(Kind::Consul, 1, Options::default()).await?;
        Ok(Self { address: cluster.address(), cluster: Some(cluster) })
    }
}

#[async_trait]
impl Fixture for Consul {
    fn name(&self) -> String {
        "consul".to_owned()
    }

    async fn connect(&self) -> kv_core::Result<Kv> {
        Registry::new().with(kv_consul::REGISTRATION).connect(&self.address).await
    }

    fn address(&self) -> Option<(Registry, String)> {
        Some((Registry::new().with(kv_consul::REGISTRATION), self.address.clone()))
    }

    fn environment(&self) -> Option<(Environment, String)> {
        let endpoint = self.cluster.as_ref()?.endpoints().swap_remove(0);
        Some((Environment::from([("CONSUL_HTTP_ADDR", endpoint.as_str())]), "consul:///".to_owned()))
    }
}

fn main() -> ExitCode {
    kv_conformance::run(Consul::start())
}
