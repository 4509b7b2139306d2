//! Everything a store holds, changed under one lock: entries, history, leases, locks and watches.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kv_core::{Check, Error, EventType, Operation, Result, Txn, Value};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::history::{History, Record};
use crate::watch::Subscriptions;

/// The number of a lease; also its place in the queue for a lock.
pub(crate) type LeaseId = u64;

pub(crate) struct State {
    pub(crate) entries: BTreeMap<String, Entry>,
    /// The index of the last change. It begins at 1, so that the index of an empty listing is one to watch from.
    pub(crate) revision: u64,
    pub(crate) history: History,
    pub(crate) subscriptions: Subscriptions,
    leases: HashMap<LeaseId, LeaseState>,
    /// The same leases by when they lapse.
    deadlines: BTreeSet<(Instant, LeaseId)>,
    locks: HashMap<String, Queue>,
    /// Notified when a lease will lapse sooner than any other.
    deadlines_changed: Arc<Notify>,
}

pub(crate) struct Entry {
    pub(crate) value: Value,
    lease: Option<LeaseId>,
}

/// What a lease keeps alive.
enum Leased {
    Entry(String),
    Lock(String),
}

struct LeaseState {
    leased: Leased,
    ttl: Duration,
    deadline: Instant,
}

/// Who holds a lock, and who waits for it, in the order they came.
struct Queue {
    holder: LeaseId,
    token: u64,
    since: Instant,
    waiters: BTreeMap<LeaseId, Waiter>,
}

struct Waiter {
    ttl: Duration,
    granted: Arc<Notify>,
}

/// A lock that was granted: its fencing token, and when its time to live began.
pub(crate) struct Holding {
    pub(crate) token: u64,
    pub(crate) since: Instant,
}

impl State {
    pub(crate) fn new(history: usize, deadlines_changed: Arc<Notify>) -> Self {
        Self {
            entries: BTreeMap::new(),
            revision: 1,
            history: History::new(history),
            subscriptions: Subscriptions::default(),
            leases: HashMap::new(),
            deadlines: BTreeSet::new(),
            locks: HashMap::new(),
            deadlines_changed,
        }
    }

    /// The entries whose keys begin with a string, from a bound on.
    pub(crate) fn below<'a>(
        &'a self,
        prefix: &'a str,
        from: Bound<&'a str>,
    ) -> impl Iterator<Item = (&'a String, &'a Entry)> {
        self.entries.range::<str, _>((from, Bound::Unbounded)).take_while(move |(key, _)| key.starts_with(prefix))
    }

    pub(crate) fn commit(&mut self, txn: Txn) -> Result<Option<u64>> {
        for check in &txn.checks {
            self.verify(check)?;
        }
        let index = self.revision + 1;
        let mut set = false;
        for operation in txn.operations {
            match operation {
                Operation::Set { key, data } => {
                    set = true;
                    self.put(key, Value { data, index }, None);
                }
                Operation::Delete { key } => self.delete(key, index),
                Operation::DeletePrefix { prefix } => {
                    let keys: Vec<_> =
                        self.below(&prefix, Bound::Included(&prefix)).map(|(key, _)| key.clone()).collect();
                    for key in keys {
                        self.delete(key, index);
                    }
                }
            }
        }
        Ok(set.then_some(index))
    }

    fn verify(&self, check: &Check) -> Result<()> {
        match check {
            Check::Index { key, index } => {
                let found = self.entries.get(key).map_or(0, |entry| entry.value.index);
                if found == *index { Ok(()) } else { Err(Error::Conflict { key: key.clone() }) }
            }
            Check::Held(guard) => {
                let held = self
                    .locks
                    .get(&guard.key)
                    .is_some_and(|queue| queue.token == guard.token && queue.holder.to_string() == guard.owner);
                if held { Ok(()) } else { Err(Error::Lost { key: guard.key.clone() }) }
            }
        }
    }

    /// Writes an entry; a lease that it has stays, unless another is given.
    fn put(&mut self, key: String, value: Value, lease: Option<LeaseId>) {
        let (index, data) = (value.index, value.data.clone());
        let (event_type, previous) = if let Some(entry) = self.entries.get_mut(&key) {
            entry.lease = lease.or(entry.lease);
            (EventType::Update, Some(std::mem::replace(&mut entry.value, value)))
        } else {
            self.entries.insert(key.clone(), Entry { value, lease });
            (EventType::Create, None)
        };
        self.record(Record { key, event_type, data, index, previous });
    }

    fn delete(&mut self, key: String, index: u64) {
        let Some(entry) = self.entries.remove(&key) else { return };
        if let Some(lease) = entry.lease {
            self.forget(lease);
        }
        let (data, previous) = (bytes::Bytes::new(), Some(entry.value));
        self.record(Record { key, event_type: EventType::Delete, data, index, previous });
    }

    fn record(&mut self, record: Record) {
        self.revision = record.index;
        self.subscriptions.announce(&record.key, self.history.end());
        self.history.push(record);
    }

    pub(crate) fn create_leased(&mut self, key: &str, ttl: Duration, now: Instant) -> Result<(LeaseId, u64)> {
        self.verify(&Check::Index { key: key.to_owned(), index: 0 })?;
        let (id, index) = (Self::next_lease(), self.revision + 1);
        self.grant(id, Leased::Entry(key.to_owned()), ttl, now);
        self.put(key.to_owned(), Value::new("", index), Some(id));
        Ok((id, index))
    }

    pub(crate) fn set_leased(&mut self, id: LeaseId, key: &str, data: bytes::Bytes) -> Result<u64> {
        match self.leases.get(&id).map(|lease| &lease.leased) {
            Some(Leased::Entry(_)) => {
                let index = self.revision + 1;
                self.put(key.to_owned(), Value { data, index }, Some(id));
                Ok(index)
            }
            _ => Err(Error::Lost { key: key.to_owned() }),
        }
    }

    /// Takes a lock or queues for it; `granted` is notified once [`holding`](Self::holding) answers.
    pub(crate) fn queue(&mut self, key: &str, ttl: Duration, granted: Arc<Notify>, now: Instant) -> Result<LeaseId> {
        self.verify(&Check::Index { key: key.to_owned(), index: 0 })?;
        let id = Self::next_lease();
        let waiter = Waiter { ttl, granted };
        match self.locks.get_mut(key) {
            Some(queue) => {
                queue.waiters.insert(id, waiter);
            }
            None => self.hold(key.to_owned(), id, &waiter, BTreeMap::new(), now),
        }
        Ok(id)
    }

    pub(crate) fn is_locked(&self, key: &str) -> bool {
        self.locks.contains_key(key)
    }

    /// Whether this lease holds the lock by now.
    pub(crate) fn holding(&self, key: &str, id: LeaseId) -> Option<Holding> {
        let queue = self.locks.get(key).filter(|queue| queue.holder == id)?;
        Some(Holding { token: queue.token, since: queue.since })
    }

    fn hold(
        &mut self,
        key: String,
        holder: LeaseId,
        waiter: &Waiter,
        waiters: BTreeMap<LeaseId, Waiter>,
        since: Instant,
    ) {
        // A token is an index that no write has: it grows with each holder, and with each write between them.
        self.revision += 1;
        self.grant(holder, Leased::Lock(key.clone()), waiter.ttl, since);
        self.locks.insert(key, Queue { holder, token: self.revision, since, waiters });
        waiter.granted.notify_one();
    }

    /// Passes a lock on to whoever waited longest.
    fn pass_on(&mut self, key: &str, now: Instant) {
        let Some(mut queue) = self.locks.remove(key) else { return };
        if let Some((id, waiter)) = queue.waiters.pop_first() {
            self.hold(key.to_owned(), id, &waiter, queue.waiters, now);
        }
    }

    pub(crate) fn renew(&mut self, id: LeaseId, now: Instant) -> bool {
        let Some(lease) = self.leases.get_mut(&id) else { return false };
        self.deadlines.remove(&(lease.deadline, id));
        lease.deadline = now + lease.ttl;
        self.deadlines.insert((lease.deadline, id));
        true
    }

    /// Ends a lease with what it kept alive; `false` if it had ended before.
    pub(crate) fn end(&mut self, id: LeaseId, now: Instant) -> bool {
        let Some(leased) = self.forget(id) else { return false };
        match leased {
            Leased::Entry(key) => self.delete(key, self.revision + 1),
            Leased::Lock(key) => self.pass_on(&key, now),
        }
        true
    }

    /// Leaves the queue for a lock.
    pub(crate) fn leave(&mut self, key: &str, id: LeaseId) {
        if let Some(queue) = self.locks.get_mut(key) {
            queue.waiters.remove(&id);
        }
    }

    /// Ends the leases that have lapsed, and says when the next one will.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<Instant> {
        while let Some((deadline, id)) = self.deadlines.first().copied() {
            if deadline > now {
                return Some(deadline);
            }
            self.end(id, now);
        }
        None
    }

    /// A number that grows, and that no lease of any other store has: a lock guards nothing in another store.
    fn next_lease() -> LeaseId {
        static LAST: AtomicU64 = AtomicU64::new(0);
        LAST.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn grant(&mut self, id: LeaseId, leased: Leased, ttl: Duration, now: Instant) {
        let deadline = now + ttl;
        self.deadlines.insert((deadline, id));
        self.leases.insert(id, LeaseState { leased, ttl, deadline });
        if self.deadlines.first() == Some(&(deadline, id)) {
            self.deadlines_changed.notify_one();
        }
    }

    fn forget(&mut self, id: LeaseId) -> Option<Leased> {
        let lease = self.leases.remove(&id)?;
        self.deadlines.remove(&(lease.deadline, id));
        Some(lease.leased)
    }
}
