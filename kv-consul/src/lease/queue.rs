//! The order in which the callers of one handle wait for a lock ([clause L13](kv_core::contract::CLAUSES#L13)).

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::sleep;

/// How often a caller shows that its future is polled.
const PULSE: Duration = Duration::from_millis(500);

/// A caller that has not shown it for so long holds up nobody. Its runtime has ended or is not driven
/// ([clause S1](kv_core::contract::CLAUSES#S1)), or its future is kept and not polled.
const ABSENT: Duration = Duration::from_secs(2);

/// The queues of the callers of one handle, one for each key, across runtimes. Only the first caller in a queue has a
/// session and asks the store.
///
/// A caller that was passed over while it was absent, and comes back, asks the store beside the first one. The store
/// decides between them.
#[derive(Default)]
pub(crate) struct Queues {
    keys: Mutex<HashMap<String, Queue>>,
}

/// Those who wait, in the order in which they asked.
#[derive(Default)]
struct Queue {
    next: u64,
    callers: BTreeMap<u64, Caller>,
}

struct Caller {
    seen: Instant,
    /// Notified when those before it have left.
    turn: Arc<Notify>,
}

/// A place in the queue for a key. Dropping it leaves the queue.
pub(super) struct Ticket<'a> {
    queues: &'a Queues,
    key: &'a str,
    number: u64,
    turn: Arc<Notify>,
}

impl Queues {
    /// Waits for the first place.
    pub(super) async fn wait<'a>(&'a self, key: &'a str) -> Ticket<'a> {
        let ticket = self.ask(key);
        while !ticket.is_first() {
            tokio::select! {
                () = ticket.turn.notified() => {}
                () = sleep(PULSE) => {}
            }
        }
        ticket
    }

    /// Takes the first place if nobody waits.
    pub(super) fn try_first<'a>(&'a self, key: &'a str) -> Option<Ticket<'a>> {
        let ticket = self.ask(key);
        ticket.is_first().then_some(ticket)
    }

    fn ask<'a>(&'a self, key: &'a str) -> Ticket<'a> {
        let mut keys = self.keys();
        let queue = keys.entry(key.to_owned()).or_default();
        let (number, turn) = (queue.next, Arc::new(Notify::new()));
        queue.next += 1;
        queue.callers.insert(number, Caller { seen: Instant::now(), turn: turn.clone() });
        Ticket { queues: self, key, number, turn }
    }

    fn keys(&self) -> MutexGuard<'_, HashMap<String, Queue>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// The first caller that is not absent.
    fn first(&self) -> Option<(&u64, &Caller)> {
        self.callers.iter().find(|(_, caller)| caller.seen.elapsed() < ABSENT)
    }
}

impl Ticket<'_> {
    /// Shows that the caller is there; returns whether nobody else is before it.
    fn is_first(&self) -> bool {
        let mut keys = self.queues.keys();
        let Some(queue) = keys.get_mut(self.key) else { return true };
        if let Some(caller) = queue.callers.get_mut(&self.number) {
            caller.seen = Instant::now();
        }
        queue.first().is_none_or(|(first, _)| *first == self.number)
    }

    /// Keeps the place for as long as it is polled.
    pub(super) async fn keep(&self) -> Infallible {
        loop {
            sleep(PULSE).await;
            self.is_first();
        }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut keys = self.queues.keys();
        let Some(queue) = keys.get_mut(self.key) else { return };
        queue.callers.remove(&self.number);
        if let Some((_, next)) = queue.first() {
            next.turn.notify_one();
        }
        if queue.callers.is_empty() {
            keys.remove(self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::poll;

    use super::*;

    #[tokio::test]
    async fn an_empty_queue_is_forgotten() {
        let queues = Queues::default();
        let first = queues.wait("k").await;
        assert!(queues.try_first("k").is_none());
        let waiting = tokio::time::timeout(Duration::from_millis(10), queues.wait("k")).await;
        assert!(waiting.is_err());
        assert!(queues.try_first("other").is_some());
        drop(first);
        assert!(queues.keys().is_empty());
        assert!(queues.try_first("k").is_some());
    }

    #[tokio::test]
    async fn those_who_wait_are_served_in_their_order_whoever_leaves() {
        let queues = Queues::default();
        let first = queues.wait("k").await;
        let mut waiting: Vec<_> = (0..4).map(|_| Box::pin(queues.wait("k"))).collect();
        for one in &mut waiting {
            assert!(poll!(one).is_pending());
        }
        drop(waiting.remove(1));
        drop(first);
        assert!(queues.try_first("k").is_none(), "others wait");
        while !waiting.is_empty() {
            for behind in &mut waiting[1..] {
                assert!(poll!(behind).is_pending(), "it is not its turn");
            }
            drop(waiting.remove(0).await);
        }
        assert!(queues.keys().is_empty());
    }

    #[tokio::test]
    async fn a_caller_that_nobody_polls_holds_up_nobody() {
        let queues = Queues::default();
        let first = queues.wait("k").await;
        let mut idle = pin!(queues.wait("k"));
        assert!(poll!(&mut idle).is_pending());
        // Neither does one that had its turn, nor one that waits for it.
        let last = queues.wait("k").await;
        assert_eq!((first.number, last.number), (0, 2));
        let keeping = tokio::time::timeout(ABSENT + PULSE * 2, last.keep());
        let (kept, beside) = tokio::join!(keeping, tokio::time::timeout(ABSENT + PULSE, queues.wait("k")));
        assert!(kept.is_err() && beside.is_err(), "one that is polled keeps its place");
    }
}
