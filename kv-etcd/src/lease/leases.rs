//! The parts that all leases share.

use std::sync::Arc;
use std::time::Duration;

use kv_core::backend::background::Background;
use kv_core::backend::spares::{Spares, side_by_side};

use super::keep_alive::KeepAlive;
use super::unused::{State, UnusedLease};
use crate::api::messages::{TxnRequest, TxnResponse};
use crate::error::Failed;
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

    /// Sends a transaction that puts or writes a key on a lease, side by side with the renewal of that lease. One that
    /// is refused is not held up by the renewal, which is then dropped.
    pub(super) async fn call_renewing<R>(
        &self,
        request: TxnRequest,
        renewal: impl Future<Output = R>,
    ) -> (Result<TxnResponse, Failed>, Option<R>) {
        let refused = |answer: &Result<TxnResponse, Failed>| !matches!(answer, Ok(answer) if answer.succeeded);
        side_by_side(self.client.call(request), refused, renewal).await
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
