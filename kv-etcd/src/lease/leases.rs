//! The parts that all leases share.

use std::sync::Arc;

use kv_core::backend::background::Background;

use super::keep_alive::KeepAlive;
use crate::transport::client::Client;

/// The parts that all leases share, on any runtime.
pub(crate) struct Leases {
    pub(super) client: Arc<Client>,
    pub(super) keep_alive: KeepAlive,
    /// The tasks that revoke leases whose callers gave up.
    pub(super) background: Background,
}

impl Leases {
    pub(crate) fn new(client: &Arc<Client>) -> Self {
        Self { client: Arc::clone(client), keep_alive: KeepAlive::new(client), background: Background::new() }
    }

    /// Waits until every lease that nobody uses is given back ([clause L12](kv_core::contract::CLAUSES#L12)).
    pub(crate) async fn settled(&self) {
        self.background.settled().await;
    }
}
