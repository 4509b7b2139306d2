//! What every lease needs.

use std::sync::Arc;

use kv_core::backend::background::Background;

use super::keep_alive::KeepAlive;
use crate::transport::client::Client;

/// What every lease needs, on whatever runtime it is used.
pub(crate) struct Leases {
    pub(super) client: Arc<Client>,
    pub(super) keep_alive: KeepAlive,
    /// What gives leases back after their callers have gone.
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
