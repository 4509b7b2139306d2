//! What every lease needs.

use std::sync::Arc;

use super::keep_alive::KeepAlive;
use crate::transport::client::Client;

/// What every lease needs, on whatever runtime it is used.
pub(crate) struct Leases {
    pub(super) client: Arc<Client>,
    pub(super) keep_alive: KeepAlive,
}

impl Leases {
    pub(crate) fn new(client: &Arc<Client>) -> Self {
        Self { client: Arc::clone(client), keep_alive: KeepAlive::new(client) }
    }
}
