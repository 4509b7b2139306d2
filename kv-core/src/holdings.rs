//! What a handle and its clones hold in the store or wait for, so that `close` can give it back
//! ([clause L12](crate::contract::CLAUSES#L12)).
//!
//! Only calls that take a lease or release one come here; reads and writes do not.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{StreamExt as _, stream};
use tokio::sync::watch;

use crate::clock::Moment;
use crate::{Error, Result};

/// How many leases `close` releases at the same time.
const AT_ONCE: usize = 64;

/// What is held and can be given back.
pub(crate) trait GiveBack: Send + Sync {
    fn give_back(self: Arc<Self>) -> BoxFuture<'static, Result<()>>;
}

/// Everything that the clones of one handle hold or wait for.
pub(crate) struct Holdings {
    phase: watch::Sender<Phase>,
    taken: Mutex<Taken>,
    /// How many calls may still take something, and how many dropped handles are being released.
    unsettled: watch::Sender<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// Nothing more is taken; what is held is being given back.
    Closing,
    /// Nothing more is given back: the time to live frees what is left.
    Closed,
}

#[derive(Default)]
struct Taken {
    next: u64,
    entries: HashMap<u64, Entry>,
    /// Leases that could not be released. They stand in the store until their time to live has passed.
    left: Vec<Left>,
    /// The longest that anything may stand without renewal.
    longest: Duration,
}

struct Entry {
    key: String,
    state: State,
    /// How long it may stand in the store from its last renewal on, if nobody gives it back.
    lasts: Duration,
}

enum State {
    /// A call that may take the key.
    Pending,
    Held(Weak<dyn GiveBack>),
    /// Its handle was dropped then, and it is being released in the background.
    Releasing(Moment),
}

struct Left {
    key: String,
    since: Moment,
    lasts: Duration,
}

/// What closing leaves to the time to live.
pub(crate) struct LeftToLapse {
    /// Sorted.
    pub(crate) keys: Vec<String>,
    /// When all of it has lapsed, from now.
    pub(crate) within: Duration,
}

impl Holdings {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            phase: watch::Sender::new(Phase::Open),
            taken: Mutex::default(),
            unsettled: watch::Sender::new(0),
        })
    }

    /// Makes room for what a call is about to take, and which lasts at most so long without renewal; the key is
    /// complete.
    pub(crate) fn begin(self: &Arc<Self>, key: &str, lasts: Duration) -> Result<Place> {
        let mut taken = self.taken();
        if !self.is_open() {
            return Err(Error::Closed { key: key.to_owned() });
        }
        let id = taken.next;
        taken.next += 1;
        taken.longest = taken.longest.max(lasts);
        taken.entries.insert(id, Entry { key: key.to_owned(), state: State::Pending, lasts });
        self.unsettled.send_modify(|count| *count += 1);
        Ok(Place { holdings: Arc::clone(self), id, lasts: OnceLock::new(), given_back: AtomicBool::new(false) })
    }

    /// Ends every wait, gives back what is held, and waits for what is given back in the background. Returns the first
    /// failure.
    pub(crate) async fn give_back(&self) -> Option<Error> {
        let mut results = stream::iter(self.begin_closing()).buffer_unordered(AT_ONCE);
        let mut failure = None;
        while let Some(result) = results.next().await {
            failure = failure.or(result.err());
        }
        // The sender lives as long as `self`, so this ends only when the condition holds.
        let _ = self.unsettled.subscribe().wait_for(|count| *count == 0).await;
        failure
    }

    /// Takes no more from now on; returns the releases of what is held.
    fn begin_closing(&self) -> Vec<BoxFuture<'static, Result<()>>> {
        let mut taken = self.taken();
        self.phase.send_replace(Phase::Closing);
        // A runtime that nobody drives never ends its releases, and need not: the time to live has.
        let lapsed = taken.entries.iter().filter(|(_, entry)| entry.stands_for().is_none()).map(|(id, _)| *id);
        for id in lapsed.collect::<Vec<_>>() {
            self.change(&mut taken, id, None);
        }
        let held = taken.entries.values().filter_map(|entry| match &entry.state {
            State::Held(held) => held.upgrade().map(GiveBack::give_back),
            State::Pending | State::Releasing(_) => None,
        });
        held.collect()
    }

    /// Ends the closing: nothing is released from now on. Returns what is left to its time to live.
    pub(crate) fn end_closing(&self) -> LeftToLapse {
        let mut taken = self.taken();
        self.phase.send_replace(Phase::Closed);
        let held = taken.entries.values().filter_map(|entry| Some((&entry.key, entry.stands_for()?)));
        let left = taken.left.iter().filter_map(|left| Some((&left.key, left.stands_for()?)));
        let (mut keys, stands): (Vec<_>, Vec<_>) = held.chain(left).map(|(key, stands)| (key.clone(), stands)).unzip();
        keys.sort_unstable();
        taken.left.retain(|left| left.stands_for().is_some());
        // Calls that were given up may have taken something that is not known here.
        LeftToLapse { keys, within: stands.into_iter().max().unwrap_or(taken.longest) }
    }

    /// Whether leases can be taken and used.
    pub(crate) fn is_open(&self) -> bool {
        *self.phase.borrow() == Phase::Open
    }

    /// Ends once `close` has begun.
    pub(crate) async fn closing(&self) {
        let _ = self.phase.subscribe().wait_for(|phase| *phase != Phase::Open).await;
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves an entry to another state, or removes it. Returns its key if it was there.
    fn change(&self, taken: &mut Taken, id: u64, state: Option<State>) -> Option<String> {
        let is_unsettled = |state: &State| matches!(state, State::Pending | State::Releasing(_));
        let entry = taken.entries.remove(&id)?;
        let (before, after) = (is_unsettled(&entry.state), state.as_ref().is_some_and(is_unsettled));
        if let Some(state) = state {
            taken.entries.insert(id, Entry { key: entry.key.clone(), state, ..entry });
        }
        match (before, after) {
            (false, true) => self.unsettled.send_modify(|count| *count += 1),
            (true, false) => self.unsettled.send_modify(|count| *count -= 1),
            _ => {}
        }
        Some(entry.key)
    }
}

impl Entry {
    /// How long it may still stand in the store; none if its time is over.
    fn stands_for(&self) -> Option<Duration> {
        match self.state {
            // It may have been renewed just now.
            State::Pending | State::Held(_) => Some(self.lasts),
            State::Releasing(since) => remains(since, self.lasts),
        }
    }
}

impl Left {
    fn stands_for(&self) -> Option<Duration> {
        remains(self.since, self.lasts)
    }
}

fn remains(since: Moment, lasts: Duration) -> Option<Duration> {
    lasts.checked_sub(since.elapsed()).filter(|left| !left.is_zero())
}

/// A place among the holdings: first of a call that may take something, then of what it took.
pub(crate) struct Place {
    holdings: Arc<Holdings>,
    id: u64,
    /// How long what was taken may stand without renewal; none before, or if it goes with its lease.
    lasts: OnceLock<Duration>,
    given_back: AtomicBool,
}

impl Place {
    /// Waits for a call that may take something, and drops it as soon as the handle is closed.
    pub(crate) async fn take<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.holdings.closing() => Err(self.closed()),
            result = call => result,
        }
    }

    /// Notes what the call took, and how long it stands without renewal once it is dropped.
    ///
    /// # Errors
    /// [`Error::Closed`] if `close` has begun meanwhile; then it is to be dropped.
    pub(crate) fn hold(&self, held: Weak<dyn GiveBack>, lasts: Option<Duration>) -> Result<()> {
        if let Some(lasts) = lasts {
            let _ = self.lasts.set(lasts);
        }
        let mut taken = self.holdings.taken();
        if !self.is_open() {
            drop(taken);
            return Err(self.closed());
        }
        self.holdings.change(&mut taken, self.id, Some(State::Held(held)));
        Ok(())
    }

    /// Whether the handle is not closed, so that what was taken may be used.
    pub(crate) fn is_open(&self) -> bool {
        self.holdings.is_open()
    }

    /// Ends once `close` has begun.
    pub(crate) async fn closing(&self) {
        self.holdings.closing().await;
    }

    /// Notes that a dropped handle is released in the background; false if there is nothing to release any more.
    pub(crate) fn begin_release(&self) -> bool {
        let mut taken = self.holdings.taken();
        if self.given_back.load(Ordering::Acquire) || *self.holdings.phase.borrow() == Phase::Closed {
            return false;
        }
        self.holdings.change(&mut taken, self.id, Some(State::Releasing(Moment::now())));
        true
    }

    /// Notes that the store no longer has it.
    pub(crate) fn given_back(&self) {
        self.given_back.store(true, Ordering::Release);
        let mut taken = self.holdings.taken();
        self.holdings.change(&mut taken, self.id, None);
    }

    fn closed(&self) -> Error {
        let taken = self.holdings.taken();
        let key = taken.entries.get(&self.id).map(|entry| entry.key.clone());
        Error::Closed { key: key.unwrap_or_default() }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.holdings.taken();
        let Some(key) = self.holdings.change(&mut taken, self.id, None) else { return };
        if let Some(lasts) = self.lasts.get() {
            // Not each time: a store that is down may be left very many leases.
            if taken.left.len().is_power_of_two() {
                taken.left.retain(|left| left.stands_for().is_some());
            }
            taken.left.push(Left { key, since: Moment::now(), lasts: *lasts });
        }
    }
}
