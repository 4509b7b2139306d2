//! Locks, by the recipe of etcd's own client and of `etcdctl lock`, so that all exclude one another
//! ([clause L9](kv_core::contract::CLAUSES#L9)).
//!
//! A contender for the lock `NAME` creates the key `NAME/<lease id in hexadecimal>`, empty, on its lease. The one
//! whose key was created first holds the lock. Each of the others waits for the deletion of the key just before its
//! own, so a hand-over wakes one waiter. The recipe is that of the package `concurrency` of etcd's client:
//! <https://pkg.go.dev/go.etcd.io/etcd/client/v3/concurrency#Mutex>.
//!
//! That package counts every key below `NAME/` as a contender. This module counts only keys that are attached to the
//! lease in their name ([clause L10](kv_core::contract::CLAUSES#L10)). If all keys below the name are such keys, both
//! see the same queue, and one read finds the first contender.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use kv_core::backend::Grant;
use kv_core::backend::backoff::{Backoff, Recovery};
use kv_core::{Error, Result};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::contenders::{self, Contender};
use super::leases::Leases;
use super::pending::PendingLease;
use crate::api::compare::{absent, owned_by};
use crate::api::lock_entry::{contender, contenders, is_lock_entry};
use crate::api::messages::{
    KeyValue, PutRequest, RangeRequest, Request, RequestOp, Response, ResponseOp, SortOrder, SortTarget, TxnRequest,
};
use crate::api::range::{Range, revision, signed};
use crate::config::NAME;
use crate::error::Failed;
use crate::read::paging::Pager;
use crate::watch::Hubs;

/// The outcome of an attempt to take the lock where its name has no other key below it.
enum Attempt {
    /// The contender's key was created at this revision, and the lock is held.
    Held(u64),
    /// Another contender has the lock, or waits for it.
    Taken,
    /// The newest key below the name is not a contender, so it is unknown whether there are any.
    Unclear,
}

/// A contender's place in the queue.
struct Place<'a> {
    name: &'a str,
    /// The key of the contender.
    owner: &'a str,
    lease: i64,
    /// The revision that created its key.
    token: u64,
}

/// The state of a place in the queue.
enum Turn {
    /// It is the first: the lock is held.
    First,
    Behind(Contender),
    /// The contender's key is gone, or detached from its lease.
    Lost,
}

/// Takes locks, from any runtime.
pub(crate) struct Locks {
    leases: Arc<Leases>,
    hubs: Arc<Hubs>,
    pager: Arc<Pager>,
}

impl Locks {
    pub(crate) fn new(leases: &Arc<Leases>, hubs: &Arc<Hubs>, pager: &Arc<Pager>) -> Self {
        Self { leases: Arc::clone(leases), hubs: Arc::clone(hubs), pager: Arc::clone(pager) }
    }

    pub(crate) async fn try_lock(&self, name: &str, ttl: Duration) -> Result<Option<Grant>> {
        let mut pending = match PendingLease::kept(&self.leases, ttl) {
            Some(spare) => spare,
            None => match self.grant_unless_contended(name, ttl).await? {
                Some(granted) => granted,
                None => return Ok(None),
            },
        };
        let held = match self.enter_alone(name, &mut pending).await? {
            Attempt::Held(token) => Some(token),
            Attempt::Taken => {
                pending.keep();
                return Ok(None);
            }
            Attempt::Unclear => self.enter_first(name, &mut pending).await?,
        };
        if let Some(token) = held {
            let owner = contender(name, pending.id());
            return Ok(Some(pending.hand_over(name, &owner, token)));
        }
        pending.end().await;
        Ok(None)
    }

    /// Asks for a lease, and at the same time whether anybody contends for the lock; then none is needed.
    async fn grant_unless_contended(&self, name: &str, ttl: Duration) -> Result<Option<PendingLease>> {
        let mut granting = Box::pin(PendingLease::grant(Arc::clone(&self.leases), ttl));
        let newest = self.leases.client.call(one_of(name, SortOrder::Descend));
        let (granted, newest) = match select(granting.as_mut(), newest).await {
            Either::Left((granted, newest)) => (Some(granted), newest.await?),
            Either::Right((newest, _)) => (None, newest?),
        };
        let is_contended = newest.kvs.into_iter().next().is_some_and(|newest| contends(&newest, name));
        match (is_contended, granted) {
            (false, Some(granted)) => granted.map(Some),
            (false, None) => granting.await.map(Some),
            (true, Some(granted)) => {
                // A caller who tries again soon will need it.
                granted.map(PendingLease::keep).map(|()| None)
            }
            (true, None) => {
                let limit = self.leases.client.config.timeout;
                // A grant that is dropped revokes what it may have been given.
                let keeping = async move {
                    if let Ok(Ok(granted)) = timeout(limit, granting).await {
                        granted.keep();
                    }
                };
                self.leases.background.spawn(keeping);
                Ok(None)
            }
        }
    }

    pub(crate) async fn lock(&self, name: &str, ttl: Duration) -> Result<Grant> {
        let mut recovery = recovery();
        let mut waited = false;
        loop {
            match self.try_wait(name, ttl, &mut waited).await {
                Ok(Some(grant)) => return Ok(grant),
                // The lease lapsed while the cluster was unreachable, and the place in the queue with it.
                Ok(None) => sleep(recovery.failed(&"the place in the queue has lapsed")).await,
                // What the failed attempt left in the store is revoked or lapses, so another attempt is allowed.
                Err(error) if waited && passes(&error) => sleep(recovery.failed(&error)).await,
                Err(error) => return Err(error),
            }
        }
    }

    /// Joins the queue and waits; `None` if the lease lapsed before the lock was free.
    async fn try_wait(&self, name: &str, ttl: Duration, waited: &mut bool) -> Result<Option<Grant>> {
        let mut pending = PendingLease::get(&self.leases, ttl).await?;
        let (token, first) = self.enter(name, &mut pending).await?;
        let owner = contender(name, pending.id());
        if first {
            return Ok(Some(pending.hand_over(name, &owner, token)));
        }
        *waited = true;
        let place = Place { name, owner: &owner, lease: pending.id(), token };
        let first = tokio::select! {
            first = self.wait_to_be_first(&place) => first?,
            () = keep_alive(&mut pending) => false,
        };
        Ok(first.then(|| pending.hand_over(name, &owner, token)))
    }

    /// Creates the contender's key; returns its revision, and whether nothing below the name is older.
    async fn enter(&self, name: &str, pending: &mut PendingLease) -> Result<(u64, bool)> {
        let oldest = || RangeRequest { keys_only: true, ..one_of(name, SortOrder::Ascend) };
        let create = |lease| TxnRequest {
            compare: vec![absent(Range::key(&contender(name, lease)))],
            success: vec![put(name, lease), Request::Range(oldest()).into()],
            failure: Vec::new(),
        };
        let answer = pending.attach(create).await?;
        if !answer.succeeded {
            return Err(Failed::unexpected("the key of a new lease exists already").into());
        }
        let own = Range::key(&contender(name, pending.id())).key;
        let first = answer.responses.into_iter().find_map(first_found).is_some_and(|found| found.key == own);
        Ok((revision(answer.header.as_ref())?, first))
    }

    /// Creates the contender's key if there is no key below the name.
    async fn enter_alone(&self, name: &str, pending: &mut PendingLease) -> Result<Attempt> {
        let create = |lease| TxnRequest {
            compare: vec![absent(Range::prefix(&contenders(name)))],
            success: vec![put(name, lease)],
            failure: vec![Request::Range(one_of(name, SortOrder::Descend)).into()],
        };
        let answer = pending.attach(create).await?;
        if answer.succeeded {
            return Ok(Attempt::Held(revision(answer.header.as_ref())?));
        }
        let newest = answer.responses.into_iter().find_map(first_found);
        Ok(if newest.is_some_and(|newest| contends(&newest, name)) { Attempt::Taken } else { Attempt::Unclear })
    }

    /// Creates the contender's key if nobody contends for the lock; returns its revision if it is the first then.
    async fn enter_first(&self, name: &str, pending: &mut PendingLease) -> Result<Option<u64>> {
        if !contenders::list(&self.pager, name).await?.is_empty() {
            return Ok(None);
        }
        let (token, first) = self.enter(name, pending).await?;
        let owner = contender(name, pending.id());
        let place = Place { name, owner: &owner, lease: pending.id(), token };
        let first = first || matches!(self.turn(&place).await?, Turn::First);
        Ok(first.then_some(token))
    }

    /// Waits until no earlier contender is left, also across disconnects; `false` if the place is lost.
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

    /// Waits until the contender just before this place has changed or is gone, and returns `None`. Returns at once
    /// `true` if this place is the first, and `false` if it is lost.
    async fn wait_for_one_before(&self, place: &Place<'_>) -> Result<Option<bool>> {
        let before = match self.turn(place).await? {
            Turn::First => return Ok(Some(true)),
            Turn::Lost => return Ok(Some(false)),
            Turn::Behind(before) => before,
        };
        let range = Range { key: before.key, end: Bytes::new() };
        let (mut events, _) = self.hubs.open_now(range.clone()).await?;
        // The watch shows what happens from now on. What happened before it was opened is read.
        let request = RangeRequest { keys_only: true, ..range.request() };
        let now = self.leases.client.call(request).await?.kvs.into_iter().next();
        if now.is_some_and(|now| now.mod_revision == before.mod_revision) {
            match events.next().await {
                // The key was deleted, or a write may have detached it from its lease; or such a change was compacted.
                Some(Ok(_) | Err(Error::Compacted { .. })) | None => {}
                Some(Err(error)) => return Err(error),
            }
        }
        Ok(None)
    }

    async fn turn(&self, place: &Place<'_>) -> Result<Turn, Failed> {
        let before =
            RangeRequest { max_create_revision: signed(place.token) - 1, ..one_of(place.name, SortOrder::Descend) };
        let request = TxnRequest {
            compare: owned_by(&Range::key(place.owner).key, place.token, place.lease),
            success: vec![Request::Range(before).into()],
            failure: Vec::new(),
        };
        let answer = self.leases.client.call(request).await?;
        if !answer.succeeded {
            return Ok(Turn::Lost);
        }
        match answer.responses.into_iter().find_map(first_found) {
            None => Ok(Turn::First),
            Some(kv) if contends(&kv, place.name) => {
                let KeyValue { key, create_revision, mod_revision, .. } = kv;
                Ok(Turn::Behind(Contender { key, create_revision, mod_revision }))
            }
            // The newest key before this place is data or belongs to a nested lock. Older keys may be contenders.
            Some(_) => self.turn_among_data(place).await,
        }
    }

    async fn turn_among_data(&self, place: &Place<'_>) -> Result<Turn, Failed> {
        let queue = contenders::list(&self.pager, place.name).await?;
        let own =
            |contender: &Contender| contender.key == place.owner && contender.create_revision == signed(place.token);
        let Some(position) = queue.iter().position(own) else { return Ok(Turn::Lost) };
        let before = position.checked_sub(1).and_then(|before| queue.into_iter().nth(before));
        Ok(before.map_or(Turn::First, Turn::Behind))
    }
}

/// Renews the lease of a waiter; returns once it has lapsed.
async fn keep_alive(pending: &mut PendingLease) {
    loop {
        sleep_until(pending.since.timer() + pending.ttl() / 3).await;
        let lapses = pending.since.timer() + pending.ttl();
        loop {
            match tokio::time::timeout_at(lapses, pending.renew()).await {
                Ok(Ok(true)) => break,
                Ok(Ok(false)) | Err(_) => return,
                Ok(Err(error)) => {
                    tracing::debug!(%error, "the lease of a waiter could not be renewed; trying again");
                    if Instant::now() >= lapses {
                        return;
                    }
                    sleep(pending.ttl() / 24).await;
                }
            }
        }
    }
}

fn recovery() -> Recovery {
    Recovery::new(NAME, "lock", Backoff::new(Duration::from_millis(50), Duration::from_secs(2)))
}

/// Whether a wait continues after this error.
fn passes(error: &Error) -> bool {
    matches!(error, Error::Unavailable { .. } | Error::Indeterminate { .. })
}

/// A range with one key below a lock's name: the oldest, or the newest.
fn one_of(name: &str, order: SortOrder) -> RangeRequest {
    RangeRequest {
        limit: 1,
        sort_order: order.into(),
        sort_target: SortTarget::Create.into(),
        ..Range::prefix(&contenders(name)).request()
    }
}

/// Creates the key of a contender.
fn put(name: &str, lease: i64) -> RequestOp {
    Request::Put(PutRequest { key: Range::key(&contender(name, lease)).key, value: Bytes::new(), lease }).into()
}

/// Whether an entry, read with its lease, belongs to a contender for the lock.
fn contends(kv: &KeyValue, name: &str) -> bool {
    is_lock_entry(&kv.key, kv.lease) && kv.key == contender(name, kv.lease)
}

fn first_found(answer: ResponseOp) -> Option<KeyValue> {
    match answer.response {
        Some(Response::Range(range)) => range.kvs.into_iter().next(),
        _ => None,
    }
}
