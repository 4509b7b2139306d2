//! The parts that all leases share.

use std::sync::Arc;
use std::time::Duration;

use kv_core::backend::background::Background;
use kv_core::backend::spares::Spares;

use super::keep_alive::KeepAlive;
use super::unused::{State, UnusedLease};
use crate::transport::client::Client;

/// The parts that all leases share, on any runtime.
pub(crate) struct Leases {
    pub(super) client: Arc<Client>,
    pub(super) keep_alive: KeepAlive,
    /// The tasks that revoke leases whose callers gave up.
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

    /// A lease that nothing relies on.
    pub(super) fn unused(&self, id: i64, ttl: Duration, state: State) -> UnusedLease {
        UnusedLease::new(&self.client, &self.background, id, ttl, state)
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
