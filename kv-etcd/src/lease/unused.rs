//! A lease that nothing relies on: it is revoked when it is dropped.

use std::sync::Arc;
use std::time::Duration;

use kv_core::Error;
use kv_core::backend::background::Background;
use tokio::time::{sleep, timeout};

use crate::api::messages::LeaseRevokeRequest;
use crate::error::Failed;
use crate::transport::client::Client;

/// How long a revocation takes at least before it is given up. Nobody waits for it, so it has time even if calls have little.
const PATIENCE: Duration = Duration::from_secs(5);
/// The pauses after which a lease is revoked again whose grant may still be in flight.
const OVERTAKEN: [Duration; 3] = [Duration::from_millis(50), Duration::from_millis(200), Duration::from_millis(800)];

/// A lease that nothing relies on. Dropping it revokes it in the background, with the keys that are attached to it.
pub(super) struct UnusedLease {
    client: Arc<Client>,
    background: Background,
    pub(super) id: i64,
    /// What was granted.
    pub(super) ttl: Duration,
    pub(super) state: State,
}

/// What the server may know of the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Nothing that is to be revoked.
    Absent,
    /// The request that grants it was not answered: it may have been applied, or be applied later.
    Requested,
    Granted,
}

impl UnusedLease {
    pub(super) fn new(client: &Arc<Client>, background: &Background, id: i64, ttl: Duration, state: State) -> Self {
        Self { client: Arc::clone(client), background: background.clone(), id, ttl, state }
    }

    /// Revokes it now. If that fails, it is tried again when it is dropped.
    pub(super) async fn end(&mut self) -> Result<(), Failed> {
        match self.client.call(LeaseRevokeRequest { id: self.id }).await {
            Err(failed) if !failed.is_lease_not_found() => Err(failed),
            _ => {
                self.state = State::Absent;
                Ok(())
            }
        }
    }
}

impl Drop for UnusedLease {
    fn drop(&mut self) {
        if self.state == State::Absent {
            return;
        }
        let (client, id, state) = (Arc::clone(&self.client), self.id, self.state);
        self.background.spawn(async move {
            let limit = client.config.timeout.max(PATIENCE);
            if let Ok(Err(failed)) = timeout(limit, revoke(&client, id, state)).await {
                let error = Error::from(failed);
                tracing::debug!(%error, "a lease that is not used is left to its time to live");
            }
        });
    }
}

/// Revokes a lease, also if its grant arrives at the server after the first attempt.
async fn revoke(client: &Client, id: i64, state: State) -> Result<(), Failed> {
    let again: &[Duration] = if state == State::Requested { &OVERTAKEN } else { &[] };
    for pause in again.iter().map(Some).chain([None]) {
        match client.call(LeaseRevokeRequest { id }).await {
            Err(failed) if failed.is_lease_not_found() => {}
            result => return result.map(drop),
        }
        if let Some(pause) = pause {
            sleep(*pause).await;
        }
    }
    Ok(())
}
