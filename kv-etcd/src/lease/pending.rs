//! A lease before it is handed out: granted, or kept from another caller; renewed while its owner waits.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use kv_core::backend::backoff::random;
use kv_core::backend::call::Call;
use kv_core::backend::{Grant, Guard};
use kv_core::clock::Moment;
use kv_core::{Error, Result};

use super::leases::Leases;
use super::owned::EtcdLease;
use super::unused::{State, UnusedLease};
use crate::api::messages::{LeaseGrantRequest, TxnRequest, TxnResponse};
use crate::api::range::{Range, index};
use crate::error::Failed;

/// The longest time to live that etcd grants.
pub(crate) const MAX_TTL: Duration = Duration::from_secs(9_000_000_000);
/// How many random ids are tried.
const ATTEMPTS: usize = 5;

/// A lease that nothing relies on yet. Unless it is handed over, dropping it revokes it in the background, with the keys
/// that are attached to it.
pub(super) struct PendingLease {
    leases: Arc<Leases>,
    lease: UnusedLease,
    /// The time to live that was asked for.
    asked: Duration,
    /// When the request that granted it, or its last renewal, began.
    pub(super) since: Moment,
    /// Another caller had it before, and the server may have ended it since.
    is_spare: bool,
}

impl PendingLease {
    /// A lease that was kept, or a new one.
    pub(super) async fn get(leases: &Arc<Leases>, ttl: Duration) -> Result<Self> {
        match Self::kept(leases, ttl) {
            Some(spare) => Ok(spare),
            None => Self::grant(Arc::clone(leases), ttl).await,
        }
    }

    /// A lease that another caller no longer needs.
    pub(super) fn kept(leases: &Arc<Leases>, ttl: Duration) -> Option<Self> {
        let lease = leases.kept(ttl)?;
        Some(Self { leases: Arc::clone(leases), lease, asked: ttl, since: Moment::now(), is_spare: true })
    }

    /// A new lease.
    pub(super) async fn grant(leases: Arc<Leases>, ttl: Duration) -> Result<Self> {
        let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        // A lease that holds no key is not yet what the caller asked for.
        Call::current().not_sent();
        for _ in 0..ATTEMPTS {
            // The id is chosen here, so that a lease can be revoked even if its grant was not answered.
            let id = i64::try_from(random() >> 1).unwrap_or(i64::MAX).max(1);
            let mut lease = leases.unused(id, ttl, State::Requested);
            let since = Moment::now();
            match leases.client.call(LeaseGrantRequest { ttl: seconds, id }).await {
                Ok(granted) => {
                    lease.state = State::Granted;
                    lease.ttl = Duration::from_secs(index(granted.ttl));
                    if lease.ttl.is_zero() || lease.ttl > MAX_TTL {
                        return Err(Failed::unexpected("a lease was granted, for no time that there is").into());
                    }
                    return Ok(Self { leases, lease, asked: ttl, since, is_spare: false });
                }
                // The answer to a first attempt was lost, so it is not known how long that lease lives.
                Err(failed) if failed.is_lease_exists() => lease.state = State::Granted,
                Err(failed) => {
                    if matches!(failed, Failed::Unreachable(_)) {
                        lease.state = State::Absent;
                    }
                    return Err(failed.into());
                }
            }
        }
        // They were granted, and the answers lost. No key is on any of them.
        Err(Error::unavailable("the answers to several grants of a lease were lost"))
    }

    pub(super) fn id(&self) -> i64 {
        self.lease.id
    }

    /// What was granted.
    pub(super) fn ttl(&self) -> Duration {
        self.lease.ttl
    }

    /// Sends the request that attaches a key to the lease of this id.
    ///
    /// A lease that was kept is renewed at the same time. If it has lapsed meanwhile, a new one takes its place, and
    /// the request is made for that.
    pub(super) async fn attach(&mut self, request: impl Fn(i64) -> TxnRequest) -> Result<TxnResponse> {
        if self.is_spare {
            let began = Moment::now();
            let renewal = self.leases.keep_alive.renew(self.id());
            let (answer, lives) = self.leases.call_renewing(request(self.id()), renewal).await;
            match answer {
                Ok(answer) if matches!(lives, Some(Ok(true))) => {
                    (self.since, self.is_spare) = (began, false);
                    return Ok(answer);
                }
                Ok(answer) if !answer.succeeded => return Ok(answer),
                // The key must be gone before it is created again.
                Ok(_) => self.lease.end().await.map_err(|failed| {
                    Error::indeterminate("the key was created, but its lease was not renewed")
                        .with_source(Error::from(failed))
                })?,
                Err(failed) if failed.is_lease_not_found() => {}
                Err(failed) => return Err(failed.into()),
            }
            *self = Self::grant(Arc::clone(&self.leases), self.asked).await?;
        }
        Ok(self.leases.client.call(request(self.id())).await?)
    }

    /// Restarts its time to live; false if it has ended.
    pub(super) async fn renew(&mut self) -> Result<bool> {
        let began = Moment::now();
        let lives = self.leases.keep_alive.renew(self.id()).await?;
        if lives {
            self.since = began;
        }
        Ok(lives)
    }

    /// Leaves it to the next caller, because no key was attached to it.
    pub(super) fn keep(self) {
        let Self { leases, lease, asked, is_spare, .. } = self;
        // One that was not renewed since it was taken may lapse any time.
        if !is_spare {
            leases.keep(asked, lease);
        }
    }

    /// Revokes it now; if that fails, or is dropped, it is tried again in the background.
    pub(super) async fn end(mut self) {
        // What failed is tried again in the background.
        let _ = self.lease.end().await;
    }

    /// Hands it over to the caller, with the key that was created on it at revision `token`.
    pub(super) fn hand_over(self, key: &str, owner: &str, token: u64) -> Grant {
        let Self { leases, mut lease, asked, since, .. } = self;
        lease.state = State::Absent;
        let (id, ttl) = (lease.id, lease.ttl);
        let guard = Guard { key: key.to_owned(), owner: owner.to_owned(), token };
        let owner = Range::key(owner).key;
        let lease = EtcdLease { leases, id, asked, ttl, since: Mutex::new(since), key: key.to_owned(), owner, token };
        Grant { lease: Box::new(lease), ttl, since, guard }
    }
}
