//! What every lease needs.

use std::sync::Arc;
use std::time::Duration;

use kv_core::backend::background::Background;
use kv_core::backend::spares::Spares;

use super::keep_alive::KeepAlive;
use super::unused::UnusedLease;
use crate::transport::client::Client;

/// What every lease needs, on whatever runtime it is used.
pub(crate) struct Leases {
    pub(super) client: Arc<Client>,
    pub(super) keep_alive: KeepAlive,
    /// What gives leases back after their callers have gone.
    pub(super) background: Background,
    spares: Spares<UnusedLease>,
}

impl Leases {
    pub(crate) fn new(client: &Arc<Client>) -> Self {
        Self {
            client: Arc::clone(client),
            keep_alive: KeepAlive::new(client),
            background: Background::new(),
            spares: Spares::new(),
        }
    }

    /// Keeps a lease for the next caller who asks for this time to live. Nothing lives on it, and no request that could
    /// attach a key to it is in flight.
    pub(super) fn keep(&self, asked: Duration, lease: UnusedLease) {
        self.spares.keep(asked, lease);
    }

    /// A lease that was kept; the server may have ended it meanwhile.
    pub(super) fn kept(&self, asked: Duration) -> Option<UnusedLease> {
        self.spares.take(asked)
    }

    /// Gives back every lease that nobody uses, and waits until that is done
    /// ([clause L12](kv_core::contract::CLAUSES#L12)).
    pub(crate) async fn settled(&self) {
        self.spares.close();
        self.background.settled().await;
    }
}
