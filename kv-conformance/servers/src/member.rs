//! Starting one member's container.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::time::Duration;

use testcontainers::bollard::models::PortBinding;
use testcontainers::core::IntoContainerPort;
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, GenericImage, ImageExt};

use crate::docker::split_reference;
use crate::error::{Doing, Error};
use crate::kind::Kind;
use crate::plan::Plan;
use crate::{consul, etcd};

/// Starts a member; gives its container and the port on 127.0.0.1 that leads to it.
///
/// The port is fixed here, and not left to the engine, since the engine would choose another at every restart.
pub(crate) async fn start(plan: &Plan<'_>) -> Result<(ContainerAsync<GenericImage>, u16), Error> {
    let mut tries = 0..10;
    loop {
        let port = free_port()?;
        match run(plan, port).await {
            Ok(container) => return Ok((container, port)),
            Err(error) if is_port_taken(&error.to_string()) && tries.next().is_some() => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether an engine's refusal is about a port that something else has taken meanwhile.
pub(crate) fn is_port_taken(message: &str) -> bool {
    message.contains("port is already allocated") || message.contains("address already in use")
}

async fn run(plan: &Plan<'_>, port: u16) -> Result<ContainerAsync<GenericImage>, Error> {
    let (arguments, environment) = match plan.kind {
        Kind::Etcd => (etcd::arguments(plan, port), etcd::environment(plan.options.tls)),
        Kind::Consul => (consul::arguments(), consul::environment(plan.options.tls)),
    };
    let mut files = [plan.files, &plan.options.files].concat();
    if plan.kind == Kind::Consul {
        files.push(consul::configuration(plan, plan.admin)?);
    }
    let inner = plan.kind.port(plan.options.tls).tcp();
    let bindings = HashMap::from([(
        inner.to_string(),
        Some(vec![PortBinding { host_ip: Some("127.0.0.1".to_owned()), host_port: Some(port.to_string()) }]),
    )]);
    let tmpfs = plan.options.in_memory.then(|| HashMap::from([("/data".to_owned(), String::new())]));
    let (name, tag) = split_reference(plan.image);
    let mut request = GenericImage::new(name, tag)
        .with_entrypoint(plan.kind.name())
        .with_exposed_port(inner)
        .with_cmd(arguments.iter().chain(&plan.options.arguments))
        .with_labels(plan.labels)
        .with_startup_timeout(Duration::from_secs(60))
        .with_host_config_modifier(move |host| {
            host.publish_all_ports = Some(false);
            host.port_bindings = Some(bindings.clone());
            host.tmpfs.clone_from(&tmpfs);
        });
    if let Some(network) = plan.network {
        request = request.with_network(network);
    }
    for (name, value) in environment {
        request = request.with_env_var(name, value);
    }
    for (path, content) in files {
        request = request.with_copy_to(path, content);
    }
    request.start().await.doing(format!("cannot start {}", plan.kind))
}

/// A port that nothing listens on.
///
/// It comes from below those that systems give to outgoing connections: while a killed server is away, such a
/// connection must not take its port.
fn free_port() -> Result<u16, Error> {
    const PORTS: Range<u16> = 15_000..30_000;
    for attempt in 0..100_u8 {
        let random = RandomState::new().hash_one(attempt);
        let offset = u16::try_from(random % PORTS.len() as u64).unwrap_or_default();
        let port = PORTS.start + offset;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    Err(Error::new("no free port on 127.0.0.1"))
}
