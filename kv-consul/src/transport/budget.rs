//! The number of connections that a handle uses, and their purposes.
//!
//! An agent closes every connection beyond 200 from one address (`limits.http_max_conns_per_client`), and several
//! processes may share that address. So the number is bounded, by a parameter of the address. Blocking queries occupy a
//! connection for as long as they wait, so they have a part of their own and never take what calls need. What they leave
//! calls may borrow, each for one request.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::Semaphore;

/// A body or an answer of at least so many bytes is a large one.
pub(crate) const LARGE: usize = 64 << 10;

/// What each runtime has to itself, so that none depends on another one being driven
/// ([clause S1](kv_core::contract::CLAUSES#S1)): connections for calls, and for blocking queries.
const OWN: (usize, usize) = (2, 1);

/// How many of so many connections may be opening at a time.
///
/// Each is one that nobody may need any more when it is open: a request takes the first connection that is free, whether
/// it is a new one or one that another request gives back.
pub(super) fn opening(connections: usize) -> usize {
    (connections / 8).max(1)
}

/// The connections of a handle to one agent, in all runtimes together.
pub(super) struct Budget {
    calls: Arc<Pot>,
    waits: Arc<Pot>,
}

/// What is not in use by any runtime. Nobody ever waits for it.
struct Pot {
    left: AtomicUsize,
    /// How many are borrowed for another purpose.
    lent: AtomicUsize,
    /// How many are never lent.
    reserve: usize,
    /// Somebody found nothing, so that nothing more is lent until somebody finds something.
    is_short: AtomicBool,
}

impl Pot {
    fn new(number: usize) -> Self {
        Self {
            left: AtomicUsize::new(number),
            lent: AtomicUsize::new(0),
            reserve: number / 4,
            is_short: AtomicBool::new(false),
        }
    }

    fn take(&self) -> bool {
        let taken = self.take_above(0);
        if taken == self.is_short.load(Ordering::Relaxed) {
            self.is_short.store(!taken, Ordering::Relaxed);
        }
        taken
    }

    /// Takes one for another purpose.
    fn lend(&self) -> bool {
        let lent = !self.is_short.load(Ordering::Relaxed) && self.take_above(self.reserve);
        self.lent.fetch_add(usize::from(lent), Ordering::AcqRel);
        lent
    }

    fn give_back(&self, number: usize) {
        self.lent.fetch_sub(number, Ordering::AcqRel);
        self.put(number);
    }

    /// How many could be lent now.
    fn spare(&self) -> usize {
        if self.is_short.load(Ordering::Relaxed) { 0 } else { self.left().saturating_sub(self.reserve) }
    }

    fn take_above(&self, reserve: usize) -> bool {
        let take = |left: usize| if left > reserve { Some(left - 1) } else { None };
        self.left.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).is_ok()
    }

    fn put(&self, number: usize) {
        self.left.fetch_add(number, Ordering::AcqRel);
    }

    fn left(&self) -> usize {
        self.left.load(Ordering::Relaxed)
    }
}

impl Budget {
    /// Half of the connections are for blocking queries, and most of the others for calls.
    pub(super) fn new(connections: usize) -> Self {
        let waits = connections / 2;
        // One connection is for probes of broken agents.
        let calls = (connections - waits).saturating_sub(1 + opening(connections));
        let pot = |number: usize, own: usize| Arc::new(Pot::new(number.saturating_sub(own)));
        Self { calls: pot(calls, OWN.0), waits: pot(waits, OWN.1) }
    }

    /// The permits of the current runtime.
    pub(super) fn share(&self) -> Share {
        // Half of what the first runtime can have.
        let bulk = OWN.0.midpoint(self.calls.left());
        let calls = Arc::new(Lane::new(Some(&self.calls), Some(&self.waits), OWN.0));
        let waits = Arc::new(Lane::new(Some(&self.waits), None, OWN.1));
        let bulk = Arc::new(Lane::new(None, None, bulk.max(1)));
        Share { calls, waits, bulk, large: Arc::new(Large(std::array::from_fn(|_| AtomicBool::new(false)))) }
    }
}

/// One runtime's permits.
pub(super) struct Share {
    calls: Arc<Lane>,
    waits: Arc<Lane>,
    bulk: Arc<Lane>,
    large: Arc<Large>,
}

/// Which requests had a large answer last time, by a hash of their path. A wrong guess only selects the wrong lane.
struct Large([AtomicBool; 256]);

/// The permit for an ordinary request.
pub(super) struct CallPermit {
    _call: Permit,
    _bulk: Option<Permit>,
    large: Arc<Large>,
    slot: usize,
}

impl CallPermit {
    /// Notes whether the answer was large.
    pub(super) fn note(&self, is_large: bool) {
        let slot = &self.large.0[self.slot];
        if slot.load(Ordering::Relaxed) != is_large {
            slot.store(is_large, Ordering::Relaxed);
        }
    }
}

impl Share {
    /// Waits until an ordinary request may be sent.
    ///
    /// Those with a large body, or whose answer was large last time, take at most half of what there is, so that others
    /// need not wait for them ([clause S2](kv_core::contract::CLAUSES#S2)).
    pub(super) async fn call(&self, target: &str, body: usize) -> CallPermit {
        let mut hasher = DefaultHasher::new();
        target.hash(&mut hasher);
        let slot = usize::try_from(hasher.finish() % 256).unwrap_or_default();
        let is_large = || body >= LARGE || self.large.0[slot].load(Ordering::Relaxed);
        let mut bulk = None;
        loop {
            if is_large() && bulk.is_none() {
                bulk = Some(self.bulk.acquire().await);
            }
            let call = self.calls.acquire().await;
            // Another request with the same path may have shown meanwhile that its answer is large.
            if bulk.is_some() || !is_large() {
                return CallPermit { _call: call, _bulk: bulk, large: self.large.clone(), slot };
            }
        }
    }

    /// Permits a blocking query, unless there are too many.
    pub(super) fn try_wait(&self) -> Option<Permit> {
        self.waits.try_acquire()
    }

    /// How many requests calls may have in flight that come in large numbers; others find room beside them.
    pub(super) fn most_calls(&self) -> usize {
        self.calls.most().saturating_sub(OWN.0).max(1)
    }

    /// How many blocking queries may be watched at a time. Some are kept for queries that nobody watches any more: the
    /// agent counts them until they end.
    pub(super) fn queries(&self) -> usize {
        (self.waits.most() * 3 / 4).max(1)
    }
}

/// Permits of one kind and one runtime. More are borrowed from the pot when they are needed.
struct Lane {
    pot: Option<Arc<Pot>>,
    /// Another kind's pot, where the own one is empty.
    spare: Option<Arc<Pot>>,
    own: usize,
    free: Semaphore,
    /// How many are borrowed from the pot, and from the other kind's.
    borrowed: AtomicUsize,
    foreign: AtomicUsize,
    waiting: AtomicUsize,
}

impl Lane {
    /// A lane without a pot borrows nothing.
    fn new(pot: Option<&Arc<Pot>>, spare: Option<&Arc<Pot>>, own: usize) -> Self {
        let (pot, spare) = (pot.cloned(), spare.cloned());
        let [borrowed, foreign, waiting] = [0; 3].map(AtomicUsize::new);
        Self { pot, spare, own, free: Semaphore::new(own), borrowed, foreign, waiting }
    }

    async fn acquire(self: &Arc<Self>) -> Permit {
        if let Some(permit) = self.try_acquire() {
            return permit;
        }
        let _waiting = Waiting::new(&self.waiting);
        if let Ok(permit) = self.free.acquire().await {
            permit.forget();
        }
        Permit(self.clone())
    }

    fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        if let Ok(permit) = self.free.try_acquire() {
            permit.forget();
        } else if self.pot.as_ref().is_some_and(|pot| pot.take()) {
            self.borrowed.fetch_add(1, Ordering::AcqRel);
        } else if self.spare.as_ref().is_some_and(|spare| spare.lend()) {
            self.foreign.fetch_add(1, Ordering::AcqRel);
        } else {
            return None;
        }
        Some(Permit(self.clone()))
    }

    fn release(&self) {
        let take_one = |count: &AtomicUsize| {
            count.fetch_update(Ordering::AcqRel, Ordering::Acquire, |number| number.checked_sub(1)).is_ok()
        };
        let is_needed = self.waiting.load(Ordering::Acquire) > 0;
        if let Some(spare) = &self.spare
            && (!is_needed || spare.is_short.load(Ordering::Relaxed))
            && take_one(&self.foreign)
        {
            spare.give_back(1);
        } else if let Some(pot) = &self.pot
            && !is_needed
            && take_one(&self.borrowed)
        {
            pot.put(1);
        } else {
            self.free.add_permits(1);
        }
    }

    /// How many permits it can have at present.
    fn most(&self) -> usize {
        let left = self.pot.as_ref().map_or(0, |pot| pot.left() + pot.lent.load(Ordering::Relaxed));
        let spare = self.spare.as_ref().map_or(0, |spare| spare.spare());
        self.own + self.borrowed.load(Ordering::Relaxed) + self.foreign.load(Ordering::Relaxed) + left + spare
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        if let Some(pot) = &self.pot {
            pot.put(*self.borrowed.get_mut());
        }
        if let Some(spare) = &self.spare {
            spare.give_back(*self.foreign.get_mut());
        }
    }
}

/// The permit for one request in flight.
pub(crate) struct Permit(Arc<Lane>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// Counts the requests that wait for a permit.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    fn now<T>(future: impl Future<Output = T>) -> Option<T> {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            std::task::Poll::Ready(value) => Some(value),
            std::task::Poll::Pending => None,
        }
    }

    fn all(take: impl Fn() -> Option<CallPermit>) -> Vec<CallPermit> {
        std::iter::from_fn(take).collect()
    }

    #[test]
    fn a_runtime_gets_what_others_leave_and_never_nothing() {
        let budget = Budget::new(32);
        let (one, other) = (budget.share(), budget.share());
        let waits: Vec<_> = std::iter::from_fn(|| one.try_wait()).collect();
        assert_eq!(waits.len(), 16);
        let most = all(|| now(one.call("a", 0)));
        assert_eq!(most.len(), 11);
        let rest = all(|| now(other.call("a", 0)));
        assert_eq!(rest.len(), OWN.0);
        // One runtime can use what the other gives back.
        drop(most);
        let more = all(|| now(other.call("a", 0)));
        assert_eq!(rest.len() + more.len(), 11);
        // This includes the permits of a runtime that has ended.
        drop((rest, more, other));
        assert_eq!(all(|| now(one.call("a", 0))).len(), 11);
    }

    #[test]
    fn neither_waits_nor_large_requests_take_what_calls_need() {
        let share = Budget::new(32).share();
        assert_eq!(share.queries(), 12);
        let waits: Vec<_> = std::iter::from_fn(|| share.try_wait()).collect();
        assert_eq!(waits.len(), 16);
        now(share.call("large", 0)).expect("a permit").note(true);
        let answers = all(|| now(share.call("large", 0)));
        assert_eq!((answers.len(), all(|| now(share.call("a", 0))).len()), (5, 6));
        drop(answers);
        let bodies = all(|| now(share.call("a", LARGE)));
        assert_eq!((bodies.len(), all(|| now(share.call("a", 0))).len()), (5, 6));
    }

    #[test]
    fn calls_borrow_what_queries_leave_until_queries_need_it() {
        let share = Budget::new(32).share();
        let mut calls = all(|| now(share.call("a", 0)));
        assert_eq!((calls.len(), share.most_calls()), (11 + 12, 11 + 12 - 2));
        assert_eq!(share.queries(), 12, "what is lent comes back");
        let mut waits: Vec<_> = std::iter::from_fn(|| share.try_wait()).collect();
        assert_eq!(waits.len(), 4);
        // One that found nothing gets the next one that a call gives back.
        calls.pop();
        assert!(now(share.call("a", 0)).is_none());
        waits.extend(share.try_wait());
        assert_eq!(waits.len(), 5);
        drop((calls, waits));
        let waits: Vec<_> = std::iter::from_fn(|| share.try_wait()).collect();
        assert_eq!((waits.len(), all(|| now(share.call("a", 0))).len()), (16, 11));
    }

    #[tokio::test]
    async fn a_waiter_goes_on_when_a_permit_is_given_back() {
        let share = Arc::new(Budget::new(4).share());
        let mut held = all(|| now(share.call("a", 0)));
        let waiting = tokio::spawn({
            let share = share.clone();
            async move { share.call("a", 0).await }
        });
        tokio::task::yield_now().await;
        held.pop();
        drop(waiting.await.expect("no panic"));
    }
}
