//! A lease before it is handed out: granted, renewed while its owner waits, and revoked if it is not used.

use std::sync::Arc;
use std::time::Duration;

use kv_core::backend::backoff::random;
use kv_core::backend::call::Call;
use kv_core::backend::{Grant, Guard};
use kv_core::clock::Moment;
use kv_core::{Error, Result};
use tokio::time::{sleep, timeout};

use super::leases::Leases;
use super::owned::EtcdLease;
use crate::api::messages::{LeaseGrantRequest, LeaseRevokeRequest};
use crate::api::range::{Range, index};
use crate::error::Failed;

/// The longest time to live that etcd grants.
pub(crate) const MAX_TTL: Duration = Duration::from_secs(9_000_000_000);
/// How many random ids are tried.
const ATTEMPTS: usize = 5;
/// The pauses after which a lease is revoked again whose grant may still be in flight.
const OVERTAKEN: [Duration; 3] = [Duration::from_millis(50), Duration::from_millis(200), Duration::from_millis(800)];

/// A lease that nothing relies on yet. Unless it is handed over, dropping it revokes it in the background, with the keys
/// that are attached to it.
pub(crate) struct PendingLease {
    leases: Arc<Leases>,
    pub(crate) id: i64,
    /// What was granted.
    pub(crate) ttl: Duration,
    /// When the request that granted it, or its last renewal, began.
    pub(crate) since: Moment,
    state: State,
}

/// What the server may know of a lease that is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing.
    Absent,
    /// The request that grants it was not answered: it may have been applied, or be applied later.
    Requested,
    Granted,
}

impl PendingLease {
    pub(crate) async fn grant(leases: &Arc<Leases>, ttl: Duration) -> Result<Self> {
        let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        // A lease that holds no key is not yet what the caller asked for.
        Call::current().not_sent();
        for _ in 0..ATTEMPTS {
            // The id is chosen here, so that a lease can be revoked even if its grant was not answered.
            let id = i64::try_from(random() >> 1).unwrap_or(i64::MAX).max(1);
            let state = State::Requested;
            let mut pending = Self { leases: Arc::clone(leases), id, ttl, since: Moment::now(), state };
            match leases.client.call(LeaseGrantRequest { ttl: seconds, id }).await {
                Ok(granted) => {
                    pending.state = State::Granted;
                    pending.ttl = Duration::from_secs(index(granted.ttl));
                    if pending.ttl.is_zero() || pending.ttl > MAX_TTL {
                        return Err(Failed::unexpected("a lease was granted, for no time that there is").into());
                    }
                    return Ok(pending);
                }
                // The answer to a first attempt was lost, so it is not known how long that lease lives.
                Err(failed) if failed.is_lease_exists() => pending.state = State::Granted,
                Err(failed) => {
                    if matches!(failed, Failed::Unreachable(_)) {
                        pending.state = State::Absent;
                    }
                    return Err(failed.into());
                }
            }
        }
        Err(Failed::unexpected("every lease id that was tried exists already").into())
    }

    /// Restarts its time to live; false if it has ended.
    pub(crate) async fn renew(&mut self) -> Result<bool> {
        let began = Moment::now();
        let lives = self.leases.keep_alive.renew(self.id).await?;
        if lives {
            self.since = began;
        }
        Ok(lives)
    }

    /// Revokes it now; if that fails, or is dropped, it is tried again in the background.
    pub(crate) async fn end(mut self) {
        if self.leases.client.call(LeaseRevokeRequest { id: self.id }).await.is_ok() {
            self.state = State::Absent;
        }
    }

    /// Hands it over to the caller, with the key that was created on it at revision `token`.
    pub(crate) fn hand_over(mut self, key: &str, owner: &str, token: u64) -> Grant {
        self.state = State::Absent;
        let lease = EtcdLease {
            leases: Arc::clone(&self.leases),
            id: self.id,
            key: key.to_owned(),
            owner: Range::key(owner).key,
            token,
        };
        let guard = Guard { key: key.to_owned(), owner: owner.to_owned(), token };
        Grant { lease: Box::new(lease), ttl: self.ttl, since: self.since, guard }
    }
}

impl Drop for PendingLease {
    fn drop(&mut self) {
        if self.state == State::Absent {
            return;
        }
        let (leases, id, state) = (Arc::clone(&self.leases), self.id, self.state);
        self.leases.background.spawn(async move {
            if let Ok(Err(failed)) = timeout(leases.client.config.timeout, revoke(&leases, id, state)).await {
                let error = Error::from(failed);
                tracing::debug!(%error, "a lease that is not used is left to its time to live");
            }
        });
    }
}

/// Revokes a lease, also if its grant arrives at the server after the first attempt.
async fn revoke(leases: &Leases, id: i64, state: State) -> Result<(), Failed> {
    let again: &[Duration] = if state == State::Requested { &OVERTAKEN } else { &[] };
    for pause in again.iter().map(Some).chain([None]) {
        match leases.client.call(LeaseRevokeRequest { id }).await {
            Err(failed) if failed.is_lease_not_found() => {}
            result => return result.map(drop),
        }
        if let Some(pause) = pause {
            sleep(*pause).await;
        }
    }
    Ok(())
}
