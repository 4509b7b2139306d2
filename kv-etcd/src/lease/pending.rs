//! A lease before it is handed out: granted, renewed while its owner waits, and ended if it is not used.

use std::sync::Arc;
use std::time::Duration;

use kv_core::backend::backoff::random;
use kv_core::backend::call::Call;
use kv_core::backend::{Grant, Guard};
use kv_core::{Error, Result};
use tokio::time::{Instant, timeout};

use super::leases::Leases;
use super::owned::EtcdLease;
use crate::api::messages::{LeaseGrantRequest, LeaseRevokeRequest};
use crate::api::range::{Range, index};
use crate::error::Failed;

/// The longest time to live that etcd grants.
pub(crate) const MAX_TTL: Duration = Duration::from_secs(9_000_000_000);
/// How often a lease is asked for that turns out to exist: chance alone never repeats one of its numbers.
const ATTEMPTS: usize = 5;

/// A lease that nothing relies on yet: unless it is handed over, dropping it ends it in the background, and what
/// was put on it goes with it.
pub(crate) struct PendingLease {
    leases: Arc<Leases>,
    pub(crate) id: i64,
    /// What was granted.
    pub(crate) ttl: Duration,
    /// When the request that granted it, or its last renewal, began.
    pub(crate) since: Instant,
    /// Whether there may be something to end.
    armed: bool,
}

impl PendingLease {
    pub(crate) async fn grant(leases: &Arc<Leases>, ttl: Duration) -> Result<Self> {
        let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        // A lease that holds no key is not yet what the caller asked for.
        Call::current().not_sent();
        for _ in 0..ATTEMPTS {
            // Numbered here, not by the server, so that a lease whose grant was cut off can be ended, too.
            let id = i64::try_from(random() >> 1).unwrap_or(i64::MAX).max(1);
            let mut pending = Self { leases: Arc::clone(leases), id, ttl, since: Instant::now(), armed: true };
            match leases.client.call(LeaseGrantRequest { ttl: seconds, id }).await {
                Ok(granted) => {
                    pending.ttl = Duration::from_secs(index(granted.ttl));
                    if pending.ttl.is_zero() || pending.ttl > MAX_TTL {
                        return Err(Failed::unexpected("a lease was granted, for no time that there is").into());
                    }
                    return Ok(pending);
                }
                // The answer to a first attempt got lost; how long that lease lives is not known.
                Err(failed) if failed.is_lease_exists() => {}
                Err(failed) => {
                    pending.armed = !matches!(failed, Failed::Unreachable(_));
                    return Err(failed.into());
                }
            }
        }
        Err(Failed::unexpected("whatever lease is asked for, it exists already").into())
    }

    /// Starts its time to live anew; false if it has ended.
    pub(crate) async fn renew(&mut self) -> Result<bool> {
        let began = Instant::now();
        let lives = self.leases.keep_alive.renew(self.id).await?;
        if lives {
            self.since = began;
        }
        Ok(lives)
    }

    /// Ends it now; what fails is tried again in the background.
    pub(crate) async fn end(mut self) {
        if self.leases.client.call(LeaseRevokeRequest { id: self.id }).await.is_ok() {
            self.armed = false;
        }
    }

    /// Makes it the caller's, with the key that was created on it at revision `token`.
    pub(crate) fn hand_over(mut self, key: &str, owner: &str, token: u64) -> Grant {
        self.armed = false;
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
        if !self.armed {
            return;
        }
        // Without a runtime nothing can be sent; the time to live ends the lease.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (leases, id) = (Arc::clone(&self.leases), self.id);
            runtime.spawn(async move {
                let ending = timeout(leases.client.config.timeout, leases.client.call(LeaseRevokeRequest { id }));
                if let Ok(Err(failed)) = ending.await
                    && !failed.is_lease_not_found()
                {
                    let error = Error::from(failed);
                    tracing::debug!(%error, "a lease that is not used is left to its time to live");
                }
            });
        }
    }
}
