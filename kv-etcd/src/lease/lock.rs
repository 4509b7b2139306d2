//! Locks, by the recipe of etcd's own client and of `etcdctl lock`, so that all exclude one another (clause L9).
//!
//! A contender for the lock `NAME` creates the key `NAME/<lease id in hexadecimal>`, empty, on its lease. The one
//! whose key was created first holds the lock. Each of the others waits for the deletion of the key just before its
//! own, so a hand-over wakes one waiter. The recipe is that of the package `concurrency` of etcd's client:
//! <https://pkg.go.dev/go.etcd.io/etcd/client/v3/concurrency#Mutex>.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use kv_core::backend::Grant;
use kv_core::backend::backoff::{Backoff, Recovery};
use kv_core::{Error, EventType, Result};
use tokio::time::{Instant, sleep, sleep_until};

use super::leases::Leases;
use super::pending::PendingLease;
use crate::api::compare::{absent, owned_by};
use crate::api::messages::{
    Compare, KeyValue, PutRequest, RangeRequest, Request, RequestOp, Response, ResponseOp, SortOrder, SortTarget,
    TxnRequest,
};
use crate::api::range::{Range, revision, signed};
use crate::config::NAME;
use crate::watch::Hubs;

/// What an attempt to queue up came to.
enum Entry {
    /// The contender's key was created at this revision, and it may hold the lock already.
    Queued { token: u64, first: bool },
    /// Others contend for the lock.
    Taken,
}

/// A contender's place in the queue.
struct Place<'a> {
    name: &'a str,
    /// Its key.
    owner: &'a str,
    lease: i64,
    /// The revision that created its key.
    token: u64,
}

/// Takes locks, on whatever runtime the caller is.
pub(crate) struct Locks {
    leases: Arc<Leases>,
    hubs: Arc<Hubs>,
}

impl Locks {
    pub(crate) fn new(leases: &Arc<Leases>, hubs: &Arc<Hubs>) -> Self {
        Self { leases: Arc::clone(leases), hubs: Arc::clone(hubs) }
    }

    pub(crate) async fn try_lock(&self, name: &str, ttl: Duration) -> Result<Option<Grant>> {
        let pending = PendingLease::grant(&self.leases, ttl).await?;
        let owner = contender(name, pending.id);
        let alone = [absent(Range::key(name)), absent(Range::prefix(&contenders(name)))];
        match self.enter(name, &pending, alone.into()).await {
            Ok(Entry::Queued { token, .. }) => Ok(Some(pending.hand_over(name, &owner, token))),
            Ok(Entry::Taken) => {
                pending.end().await;
                Ok(None)
            }
            Err(error) => {
                if error.is_conflict() {
                    pending.end().await;
                }
                Err(error)
            }
        }
    }

    pub(crate) async fn lock(&self, name: &str, ttl: Duration) -> Result<Grant> {
        let mut recovery = recovery();
        let mut waited = false;
        loop {
            match self.try_wait(name, ttl, &mut waited).await {
                Ok(Some(grant)) => return Ok(grant),
                // The lease lapsed while the cluster was out of reach, and with it the place in the queue.
                Ok(None) => sleep(recovery.failed(&"the place in the queue has lapsed")).await,
                // Nothing is left of the failed attempt that would not lapse, so it may be made again.
                Err(error) if waited && passes(&error) => sleep(recovery.failed(&error)).await,
                Err(error) => return Err(error),
            }
        }
    }

    /// Queues up and waits; `None` if the lease lapsed before the lock was free.
    async fn try_wait(&self, name: &str, ttl: Duration, waited: &mut bool) -> Result<Option<Grant>> {
        let mut pending = PendingLease::grant(&self.leases, ttl).await?;
        let owner = contender(name, pending.id);
        let entry = self.enter(name, &pending, vec![absent(Range::key(name))]).await;
        let token = match entry {
            Ok(Entry::Queued { token, first: true }) => return Ok(Some(pending.hand_over(name, &owner, token))),
            Ok(Entry::Queued { token, first: false }) => token,
            Ok(Entry::Taken) => return Err(Error::unexpected_answer("the lock was refused without a reason")),
            Err(error) => {
                if error.is_conflict() {
                    pending.end().await;
                }
                return Err(error);
            }
        };
        *waited = true;
        let place = Place { name, owner: &owner, lease: pending.id, token };
        let first = tokio::select! {
            first = self.wait_to_be_first(&place) => first?,
            () = keep_alive(&mut pending) => false,
        };
        Ok(first.then(|| pending.hand_over(name, &owner, token)))
    }

    /// Creates the contender's key, if `conditions` hold.
    async fn enter(&self, name: &str, pending: &PendingLease, mut conditions: Vec<Compare>) -> Result<Entry> {
        let own = Range::key(&contender(name, pending.id));
        conditions.push(absent(own.clone()));
        let first = RangeRequest {
            limit: 1,
            keys_only: true,
            sort_order: SortOrder::Ascend.into(),
            sort_target: SortTarget::Create.into(),
            ..Range::prefix(&contenders(name)).request()
        };
        let put = PutRequest { key: own.key.clone(), value: Bytes::new(), lease: pending.id };
        let value = RangeRequest { keys_only: true, ..Range::key(name).request() };
        let request = TxnRequest {
            compare: conditions,
            success: vec![Request::Put(put).into(), Request::Range(first).into()],
            failure: vec![RequestOp::from(Request::Range(value))],
        };
        let answer = self.leases.client.call(request).await?;
        let found = answer.responses.into_iter().find_map(first_found);
        if answer.succeeded {
            let first = found.is_some_and(|found| found.key == own.key);
            return Ok(Entry::Queued { token: revision(answer.header.as_ref())?, first });
        }
        // What was found is the value of a key with the lock's own name.
        if found.is_some() { Err(Error::Conflict { key: name.to_owned() }) } else { Ok(Entry::Taken) }
    }

    /// Waits through any disconnect until no contender is left that came before; false if the place is lost.
    async fn wait_to_be_first(&self, place: &Place<'_>) -> Result<bool> {
        let mut recovery = recovery();
        loop {
            match self.wait_for_one_before(place).await {
                Ok(Some(first)) => return Ok(first),
                Ok(None) => recovery.worked(),
                Err(error) if passes(&error) => sleep(recovery.failed(&error)).await,
                Err(error) => return Err(error),
            }
        }
    }

    /// Looks who is just before, and waits until that one is gone; otherwise says whether the place is the first, or
    /// lost: whoever waited may have lost its key meanwhile, so that is looked at, too.
    async fn wait_for_one_before(&self, place: &Place<'_>) -> Result<Option<bool>> {
        let before = RangeRequest {
            limit: 1,
            keys_only: true,
            sort_order: SortOrder::Descend.into(),
            sort_target: SortTarget::Create.into(),
            max_create_revision: signed(place.token) - 1,
            ..Range::prefix(&contenders(place.name)).request()
        };
        let request = TxnRequest {
            compare: owned_by(&Range::key(place.owner).key, place.token, place.lease),
            success: vec![Request::Range(before).into()],
            failure: Vec::new(),
        };
        let answer = self.leases.client.call(request).await?;
        if !answer.succeeded {
            return Ok(Some(false));
        }
        let at = revision(answer.header.as_ref())?;
        let Some(before) = answer.responses.into_iter().find_map(first_found) else { return Ok(Some(true)) };
        let mut events = self.hubs.open(Range { key: before.key, end: Bytes::new() }, at).await?;
        while let Some(event) = events.next().await {
            match event {
                Ok(event) if event.event_type == EventType::Delete => break,
                // The deletion is among what is gone: look again.
                Err(Error::Compacted { .. }) => break,
                Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

/// Renews the lease of one who waits; returns once it has lapsed.
async fn keep_alive(pending: &mut PendingLease) {
    loop {
        sleep_until(pending.since.timer() + pending.ttl / 3).await;
        let lapses = pending.since.timer() + pending.ttl;
        loop {
            match tokio::time::timeout_at(lapses, pending.renew()).await {
                Ok(Ok(true)) => break,
                Ok(Ok(false)) | Err(_) => return,
                Ok(Err(error)) => {
                    tracing::debug!(%error, "the lease of a waiter could not be renewed; trying again");
                    if Instant::now() >= lapses {
                        return;
                    }
                    sleep(pending.ttl / 24).await;
                }
            }
        }
    }
}

fn recovery() -> Recovery {
    Recovery::new(NAME, "lock", Backoff::new(Duration::from_millis(50), Duration::from_secs(2)))
}

/// Whether one who waits goes on waiting.
fn passes(error: &Error) -> bool {
    matches!(error, Error::Unavailable { .. } | Error::Indeterminate { .. })
}

/// What every contender's key begins with.
fn contenders(name: &str) -> String {
    format!("{name}/")
}

fn contender(name: &str, lease: i64) -> String {
    format!("{name}/{lease:x}")
}

fn first_found(answer: ResponseOp) -> Option<KeyValue> {
    match answer.response {
        Some(Response::Range(range)) => range.kvs.into_iter().next(),
        _ => None,
    }
}
