//! Images and networks of the Docker engine.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Once;

use testcontainers::bollard::Docker;
use testcontainers::bollard::models::{
    EndpointIpamConfig, EndpointSettings, Ipam, IpamConfig, NetworkConnectRequest, NetworkCreateRequest,
    NetworkDisconnectRequest,
};
use testcontainers::runners::AsyncRunner;
use testcontainers::{GenericImage, core::client::docker_client_instance};
use tokio::process::Command;

use crate::error::{Doing, Error};
use crate::kind::Kind;

/// Connects to the engine that testcontainers uses, and pings it.
pub(crate) async fn engine() -> Result<Docker, Error> {
    let answered = async {
        let engine = docker_client_instance().await.doing("Docker")?;
        engine.ping().await.doing("Docker")?;
        Ok(engine)
    };
    answered.await.map_err(|error: Error| {
        Error::new(format!(
            "no Docker engine answers, so no server can be started. Start Docker (or point DOCKER_HOST at it), or \
             name a server that already runs in {} or {}. ({error})",
            Kind::Etcd.address_variable(),
            Kind::Consul.address_variable(),
        ))
    })
}

/// Makes one of these images available, and returns the first one for which that works.
pub(crate) async fn provide_image(engine: &Docker, references: &[String]) -> Result<String, Error> {
    let mut failures = Vec::new();
    for reference in references {
        match provide(engine, reference).await {
            Ok(()) => {
                if !failures.is_empty() {
                    static ONCE: Once = Once::new();
                    ONCE.call_once(|| eprintln!("{}\n{reference} is used instead", failures.join("\n")));
                }
                return Ok(reference.clone());
            }
            Err(error) => failures.push(error.to_string()),
        }
    }
    Err(Error::new(failures.join("\n")))
}

/// Makes an image available: from this machine, else built by `images/build` or pulled.
async fn provide(engine: &Docker, reference: &str) -> Result<(), Error> {
    if engine.inspect_image(reference).await.is_ok() {
        return Ok(());
    }
    let (name, tag) = split_reference(reference);
    // No container registry has these names, so a pull would only cost time.
    if let Some(product @ ("etcd" | "consul")) = name.strip_prefix("kv-") {
        return build_image(product, tag).await;
    }
    GenericImage::new(name, tag)
        .pull_image()
        .await
        .map(drop)
        .doing(format!("image {reference} is missing and cannot be pulled (kv-conformance/images/build makes others)"))
}

async fn build_image(product: &str, version: &str) -> Result<(), Error> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../images/build");
    let output = Command::new(&script)
        .args([product, version])
        .output()
        .await
        .doing(format!("cannot run {}", script.display()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::new(format!(
        "image kv-{product}:{version} is missing, and building it failed:\n{}",
        String::from_utf8_lossy(&output.stderr).trim_end()
    )))
}

/// Splits an image reference into the parts that testcontainers joins again with a colon.
pub(crate) fn split_reference(reference: &str) -> (&str, &str) {
    match reference.rsplit_once(':') {
        // In `host:5000/name` the colon belongs to the port.
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ => (reference, "latest"),
    }
}

/// A cluster's two networks.
///
/// Members talk to one another only on `peers`, where each keeps its address. Clients connect to a port that is mapped
/// through `clients`. Disconnecting a member from `peers` therefore isolates it while clients still reach it.
#[derive(Debug, Clone)]
pub(crate) struct Networks {
    pub(crate) clients: String,
    peers: String,
    subnet: Ipv4Addr,
}

impl Networks {
    /// Creates both networks.
    ///
    /// Fixed addresses need an explicit subnet, and only the engine knows which subnets are free. So a temporary
    /// network is created to learn a free subnet and removed at once. If another network takes the subnet meanwhile,
    /// the next is tried.
    pub(crate) async fn create(
        engine: &Docker,
        cluster: &str,
        labels: &HashMap<String, String>,
    ) -> Result<Self, Error> {
        let (clients, peers) = (format!("{cluster}-clients"), format!("{cluster}-peers"));
        create_clients_network(engine, &clients, labels).await?;
        let request = |name: &str, subnet: Option<&String>| NetworkCreateRequest {
            name: name.to_owned(),
            labels: Some(labels.clone()),
            internal: Some(true),
            ipam: subnet.map(|subnet| Ipam {
                config: Some(vec![IpamConfig { subnet: Some(subnet.clone()), ..IpamConfig::default() }]),
                ..Ipam::default()
            }),
            ..NetworkCreateRequest::default()
        };
        let mut tries = 0..10;
        loop {
            let scout = format!("{peers}-scout");
            engine.create_network(request(&scout, None)).await.doing("cannot create a network")?;
            let found = engine.inspect_network(&scout, None).await.doing("cannot inspect a network")?;
            engine.remove_network(&scout).await.doing("cannot remove a network")?;
            let configs = found.ipam.and_then(|ipam| ipam.config).unwrap_or_default();
            let (subnet, first) = configs
                .into_iter()
                .filter_map(|config| config.subnet)
                .find_map(|subnet| Some((subnet.clone(), subnet.split('/').next()?.parse().ok()?)))
                .ok_or_else(|| Error::new("the engine gave a network no IPv4 subnet"))?;
            match engine.create_network(request(&peers, Some(&subnet))).await {
                Ok(_) => return Ok(Self { clients, peers, subnet: first }),
                Err(_) if tries.next().is_some() => {}
                Err(error) => return Err(error).doing("cannot create a network"),
            }
        }
    }

    /// The address of a member on the peer network, the same for as long as the network exists.
    pub(crate) fn peer_address(&self, member: usize) -> Ipv4Addr {
        let offset = u32::try_from(11 + member).unwrap_or(u32::MAX);
        Ipv4Addr::from_bits(self.subnet.to_bits().saturating_add(offset))
    }

    /// Joins a member's container to its peers.
    pub(crate) async fn connect(&self, engine: &Docker, container: &str, member: usize) -> Result<(), Error> {
        let request = NetworkConnectRequest {
            container: container.to_owned(),
            endpoint_config: Some(EndpointSettings {
                ipam_config: Some(EndpointIpamConfig {
                    ipv4_address: Some(self.peer_address(member).to_string()),
                    ..EndpointIpamConfig::default()
                }),
                ..EndpointSettings::default()
            }),
        };
        engine.connect_network(&self.peers, request).await.doing("cannot connect a member to its peers")
    }

    /// Disconnects a member's container from the peer network.
    pub(crate) async fn disconnect(&self, engine: &Docker, container: &str) -> Result<(), Error> {
        let request = NetworkDisconnectRequest { container: container.to_owned(), force: Some(false) };
        engine.disconnect_network(&self.peers, request).await.doing("cannot disconnect a member from its peers")
    }
}

/// The network behind the mapped ports; containers on it do not reach one another.
async fn create_clients_network(engine: &Docker, name: &str, labels: &HashMap<String, String>) -> Result<(), Error> {
    let apart = HashMap::from([("com.docker.network.bridge.enable_icc".to_owned(), "false".to_owned())]);
    let request = NetworkCreateRequest {
        name: name.to_owned(),
        labels: Some(labels.clone()),
        options: Some(apart),
        ..NetworkCreateRequest::default()
    };
    engine.create_network(request).await.map(drop).doing("cannot create a network")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_split_at_the_tag_and_not_at_a_port() {
        assert_eq!(split_reference("kv-etcd:3.5.16"), ("kv-etcd", "3.5.16"));
        assert_eq!(split_reference("localhost:5000/etcd"), ("localhost:5000/etcd", "latest"));
        assert_eq!(split_reference("localhost:5000/etcd:v3"), ("localhost:5000/etcd", "v3"));
        assert_eq!(split_reference("etcd"), ("etcd", "latest"));
    }
}
