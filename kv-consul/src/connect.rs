//! Connecting: the constructor that the registration names.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use kv_core::Result;
use kv_core::backend::background::Background;
use kv_core::backend::backoff::random;
use kv_core::backend::spares::Spares;
use kv_core::backend::{Address, Backend};

use crate::backend::Consul;
use crate::config::Config;
use crate::read;
use crate::settings::LearntSettings;
use crate::shared::Shared;
use crate::transport::clients::Clients;

/// Reads an address with its certificates. The first `ping` connects and reads the agent's configuration.
///
/// # Errors
/// [`InvalidAddress`](kv_core::Error::InvalidAddress), naming the parameter that cannot be used.
pub(crate) async fn connect(address: Address) -> Result<Arc<dyn Backend>> {
    let config = Config::read(&address)?;
    let lock_delay = config.lock_delay;
    let clients = Clients::new(config)?;
    // At a generic address any backend may be the right one. This one asks each agent only once, so that the next
    // backend is tried soon.
    let is_sure = matches!(&*address.scheme, "consul" | "consuls");
    let agent = if is_sure { None } else { Some(read::agent(&*clients.current()?, false).await?) };
    let shared = Shared {
        clients: Arc::new(clients),
        settings: LearntSettings::new(agent.as_ref()),
        lock_delay,
        background: Background::new(),
        spares: Spares::new(),
        nonce: AtomicU64::new(random()),
    };
    Ok(Arc::new(Consul::new(Arc::new(shared))))
}
