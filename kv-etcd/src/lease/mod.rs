//! Leases, and what lives on them: ephemeral keys and locks.

pub(crate) mod ephemeral_key;
mod keep_alive;
pub(crate) mod lock;
mod owned;
mod pending;

use std::sync::Arc;

use keep_alive::KeepAlive;
pub(crate) use pending::MAX_TTL;

use crate::transport::client::Client;

/// What every lease needs, on whatever runtime it is used.
pub(crate) struct Leases {
    client: Arc<Client>,
    keep_alive: KeepAlive,
}

impl Leases {
    pub(crate) fn new(client: &Arc<Client>) -> Self {
        Self { client: Arc::clone(client), keep_alive: KeepAlive::new(client) }
    }
}
