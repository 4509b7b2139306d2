//! The leases of a store and when they lapse. This file reads no clock: callers pass the time.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// The number of a lease; also its place in the queue for a lock.
pub(crate) type LeaseId = u64;

/// What is on a lease.
pub(crate) enum Leased {
    /// The key of an entry.
    Entry(String),
    /// The name of a lock.
    Lock(String),
}

#[derive(Default)]
pub(crate) struct Leases {
    by_id: HashMap<LeaseId, Term>,
    by_deadline: BTreeSet<(Instant, LeaseId)>,
}

/// The time to live and the deadline of one lease.
struct Term {
    leased: Leased,
    ttl: Duration,
    deadline: Instant,
}

impl Leases {
    /// A new id, greater than any before it in this process, in any store. So a lock guards nothing in another store.
    pub(crate) fn next_id() -> LeaseId {
        static LAST: AtomicU64 = AtomicU64::new(0);
        LAST.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn grant(&mut self, id: LeaseId, leased: Leased, ttl: Duration, now: Instant) {
        let deadline = now + ttl;
        self.by_deadline.insert((deadline, id));
        self.by_id.insert(id, Term { leased, ttl, deadline });
    }

    /// What is on a lease, if the lease exists.
    pub(crate) fn leased(&self, id: LeaseId) -> Option<&Leased> {
        self.by_id.get(&id).map(|term| &term.leased)
    }

    /// Restarts the time to live; `false` if the lease has ended.
    pub(crate) fn renew(&mut self, id: LeaseId, now: Instant) -> bool {
        let Some(term) = self.by_id.get_mut(&id) else { return false };
        self.by_deadline.remove(&(term.deadline, id));
        term.deadline = now + term.ttl;
        self.by_deadline.insert((term.deadline, id));
        true
    }

    /// Ends a lease, and returns what was on it.
    pub(crate) fn end(&mut self, id: LeaseId) -> Option<Leased> {
        let term = self.by_id.remove(&id)?;
        self.by_deadline.remove(&(term.deadline, id));
        Some(term.leased)
    }

    /// When the next lease lapses.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.by_deadline.first().map(|(deadline, _)| *deadline)
    }

    /// A lease that has lapsed, the one that lapsed first.
    pub(crate) fn lapsed(&self, now: Instant) -> Option<LeaseId> {
        self.by_deadline.first().filter(|(deadline, _)| *deadline <= now).map(|(_, id)| *id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_lapse_in_the_order_of_their_deadlines() {
        let (mut leases, now) = (Leases::default(), Instant::now());
        let seconds = |number| now + Duration::from_secs(number);
        let [first, second] = [9, 3].map(|ttl| {
            let id = Leases::next_id();
            leases.grant(id, Leased::Entry(id.to_string()), Duration::from_secs(ttl), now);
            id
        });
        assert_eq!(leases.next_deadline(), Some(seconds(3)));
        assert_eq!((leases.lapsed(seconds(2)), leases.lapsed(seconds(3))), (None, Some(second)));
        assert!(leases.renew(second, seconds(2)) && leases.renew(second, seconds(8)));
        assert_eq!(leases.lapsed(seconds(20)), Some(first));
        assert!(leases.end(first).is_some() && leases.end(first).is_none() && !leases.renew(first, now));
        assert_eq!(leases.lapsed(seconds(11)), Some(second));
        assert!(matches!(leases.leased(second), Some(Leased::Entry(key)) if *key == second.to_string()));
        leases.end(second);
        assert_eq!(leases.next_deadline(), None);
    }
}
