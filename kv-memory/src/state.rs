//! The data of a store: entries, history, leases, locks and subscriptions, changed together under one lock.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kv_core::backend::{Check, Operation, Txn};
use kv_core::clock::Moment;
use kv_core::{Error, EventType, ForeignWrite, Result, Value};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::history::{History, Record};
use crate::leases::{LeaseId, Leased, Leases};
use crate::options::Options;
use crate::subscriptions::Subscriptions;

pub(crate) struct State {
    pub(crate) entries: BTreeMap<String, Entry>,
    /// The index of the last change. It begins at 1, because a watch cannot begin at index 0 of an empty listing.
    pub(crate) revision: u64,
    pub(crate) history: History,
    pub(crate) subscriptions: Subscriptions,
    leases: Leases,
    locks: BTreeMap<String, Queue>,
    foreign_write: ForeignWrite,
    /// Notified when a new lease lapses sooner than any other.
    earlier_deadline: Arc<Notify>,
}

pub(crate) struct Entry {
    pub(crate) value: Value,
    lease: Option<LeaseId>,
}

/// Who holds a lock, and who waits for it, in the order in which they asked.
struct Queue {
    holder: LeaseId,
    token: u64,
    since: Moment,
    waiters: BTreeMap<LeaseId, Waiter>,
}

struct Waiter {
    ttl: Duration,
    granted: Arc<Notify>,
}

/// A granted lock: its fencing token, and when its time to live began.
pub(crate) struct Holding {
    pub(crate) token: u64,
    pub(crate) since: Moment,
}

impl State {
    pub(crate) fn new(options: Options, earlier_deadline: Arc<Notify>) -> Self {
        Self {
            entries: BTreeMap::new(),
            revision: 1,
            history: History::new(options.history),
            subscriptions: Subscriptions::default(),
            leases: Leases::default(),
            locks: BTreeMap::new(),
            foreign_write: options.foreign_write,
            earlier_deadline,
        }
    }

    /// The entries whose keys begin with `prefix`, starting at a bound.
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
        let (mut has_set, mut trees) = (false, Vec::new());
        for operation in txn.operations {
            match operation {
                Operation::Set { key, data } => {
                    has_set = true;
                    self.put(key, Value { data, index }, None);
                }
                Operation::Delete { key } => self.delete(key, index),
                Operation::DeletePrefix { prefix } => {
                    let keys: Vec<_> =
                        self.below(&prefix, Bound::Included(&prefix)).map(|(key, _)| key.clone()).collect();
                    for key in keys {
                        self.delete(key, index);
                    }
                    trees.push(prefix);
                }
            }
        }
        for prefix in trees {
            self.end_locks(&prefix);
        }
        Ok(has_set.then_some(index))
    }

    /// Ends the locks whose tree is deleted. A lock lives below its name, as on every store: `prefix` ends in `/`.
    fn end_locks(&mut self, prefix: &str) {
        let at = prefix.strip_suffix('/').filter(|name| self.locks.contains_key(*name));
        let below = self.locks.range::<str, _>((Bound::Included(prefix), Bound::Unbounded)).map(|(name, _)| &**name);
        let names: Vec<String> =
            at.into_iter().chain(below.take_while(|name| name.starts_with(prefix))).map(str::to_owned).collect();
        if names.is_empty() {
            return;
        }
        let now = Moment::now();
        for name in names {
            if let Some(queue) = self.locks.get(&name) {
                self.leases.end(queue.holder);
                self.pass_on(&name, now);
            }
        }
    }

    fn verify(&self, check: &Check) -> Result<()> {
        match check {
            Check::Index { key, index } => {
                let found = self.entries.get(key).map_or(0, |entry| entry.value.index);
                if found == *index { Ok(()) } else { Err(Error::Conflict { key: key.clone() }) }
            }
            Check::Held(guard) => {
                let is_held = self
                    .locks
                    .get(&guard.key)
                    .is_some_and(|queue| queue.token == guard.token && queue.holder.to_string() == guard.owner);
                if is_held { Ok(()) } else { Err(Error::Lost { key: guard.key.clone() }) }
            }
        }
    }

    /// Writes an entry, through the handle of its lease or as a plain write.
    fn put(&mut self, key: String, value: Value, lease: Option<LeaseId>) {
        let (index, data) = (value.index, value.data.clone());
        let (event_type, previous) = if let Some(entry) = self.entries.get_mut(&key) {
            if lease.is_none() && self.foreign_write == ForeignWrite::Detaches {
                entry.lease.take().and_then(|lease| self.leases.end(lease));
            }
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
            self.leases.end(lease);
        }
        let (data, previous) = (Bytes::new(), Some(entry.value));
        self.record(Record { key, event_type: EventType::Delete, data, index, previous });
    }

    fn record(&mut self, record: Record) {
        self.revision = record.index;
        self.subscriptions.announce(&record.key, self.history.end());
        self.history.push(record);
    }

    pub(crate) fn create_leased(&mut self, key: &str, ttl: Duration, now: Moment) -> Result<(LeaseId, u64)> {
        self.verify(&Check::Index { key: key.to_owned(), index: 0 })?;
        let (id, index) = (Leases::next_id(), self.revision + 1);
        self.grant(id, Leased::Entry(key.to_owned()), ttl, now);
        self.put(key.to_owned(), Value::new("", index), Some(id));
        Ok((id, index))
    }

    pub(crate) fn set_leased(&mut self, id: LeaseId, key: &str, data: Bytes) -> Result<u64> {
        match self.leases.leased(id) {
            Some(Leased::Entry(_)) => {
                let index = self.revision + 1;
                self.put(key.to_owned(), Value { data, index }, Some(id));
                Ok(index)
            }
            _ => Err(Error::Lost { key: key.to_owned() }),
        }
    }

    /// Takes a lock, or queues for it. `granted` is notified once [`holding`](Self::holding) returns something.
    pub(crate) fn queue(&mut self, key: &str, ttl: Duration, granted: Arc<Notify>, now: Moment) -> LeaseId {
        let id = Leases::next_id();
        let waiter = Waiter { ttl, granted };
        match self.locks.get_mut(key) {
            Some(queue) => {
                queue.waiters.insert(id, waiter);
            }
            None => self.hold(key.to_owned(), id, &waiter, BTreeMap::new(), now),
        }
        id
    }

    pub(crate) fn is_locked(&self, key: &str) -> bool {
        self.locks.contains_key(key)
    }

    /// The lock's grant to this lease, if the lease holds the lock now.
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
        since: Moment,
    ) {
        // The token is an index that no write has: it grows with each holder and with each write between two holders.
        self.revision += 1;
        self.grant(holder, Leased::Lock(key.clone()), waiter.ttl, since);
        self.locks.insert(key, Queue { holder, token: self.revision, since, waiters });
        waiter.granted.notify_one();
    }

    /// Grants a lock that has become free to the longest waiter.
    fn pass_on(&mut self, key: &str, now: Moment) {
        let Some(mut queue) = self.locks.remove(key) else { return };
        if let Some((id, waiter)) = queue.waiters.pop_first() {
            self.hold(key.to_owned(), id, &waiter, queue.waiters, now);
        }
    }

    /// Leaves the queue for a lock.
    pub(crate) fn leave(&mut self, key: &str, id: LeaseId) {
        if let Some(queue) = self.locks.get_mut(key) {
            queue.waiters.remove(&id);
        }
    }

    fn grant(&mut self, id: LeaseId, leased: Leased, ttl: Duration, now: Moment) {
        let before = self.leases.next_deadline();
        self.leases.grant(id, leased, ttl, now.timer());
        if self.leases.next_deadline() != before {
            self.earlier_deadline.notify_waiters();
        }
    }

    /// Restarts the time to live of a lease; `false` if it has ended.
    pub(crate) fn renew(&mut self, id: LeaseId, now: Instant) -> bool {
        self.leases.renew(id, now)
    }

    /// Ends a lease and removes what was on it; `false` if it had ended before.
    pub(crate) fn end(&mut self, id: LeaseId, now: Moment) -> bool {
        let Some(leased) = self.leases.end(id) else { return false };
        match leased {
            Leased::Entry(key) => self.delete(key, self.revision + 1),
            Leased::Lock(key) => self.pass_on(&key, now),
        }
        true
    }

    /// When the next lease lapses.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.leases.next_deadline()
    }

    /// Whether a lease has lapsed and not been ended yet.
    pub(crate) fn has_lapsed(&self) -> bool {
        // Without a lease, no clock is read.
        self.next_deadline().is_some_and(|deadline| deadline <= Instant::now())
    }

    /// Ends the leases that have lapsed, in the order in which they lapsed.
    pub(crate) fn end_lapsed(&mut self, now: Moment) {
        while let Some(id) = self.leases.lapsed(now.timer()) {
            self.end(id, now);
        }
    }
}
