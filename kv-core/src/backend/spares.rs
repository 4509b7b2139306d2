//! Leases that nothing lives on any more, kept for the next caller.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::runtime::Handle;
use tokio::time::sleep;

use crate::clock::Moment;

/// A lease that nobody takes for this long is given back.
const IDLE: Duration = Duration::from_secs(1);

/// How many leases are kept at most.
const MOST: usize = 64;

/// The leases of one backend that nothing lives on any more, kept for a moment for the next caller who asks for the same
/// time to live. Such a caller saves the round trip in which a lease is granted.
///
/// `L` is a lease that gives itself back when it is dropped, at once and without calling the pool. Whoever takes one
/// restarts its time to live, and expects that the store may have ended it meanwhile. Keep only a lease of which no
/// request is in flight any more: such a request could arrive when the lease is another caller's.
///
/// ```
/// # use kv_core::backend::spares::Spares;
/// # use std::time::Duration;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let spares = Spares::new();
/// let ttl = Duration::from_secs(10);
/// spares.keep(ttl, "a lease");
/// assert_eq!(spares.take(Duration::from_secs(20)), None);
/// assert_eq!(spares.take(ttl), Some("a lease"));
/// # }
/// ```
#[derive(Debug)]
pub struct Spares<L>(Arc<Mutex<State<L>>>);

#[derive(Debug)]
struct State<L> {
    /// The lease that was kept last is the last one.
    kept: Vec<Spare<L>>,
    /// When the task last looked that gives back what nobody takes; none without such a task.
    swept: Option<Moment>,
    closed: bool,
}

#[derive(Debug)]
struct Spare<L> {
    /// The time to live that was asked for.
    asked: Duration,
    since: Moment,
    lease: L,
}

impl<L> Spare<L> {
    fn is_fresh(&self) -> bool {
        // What is left of a short time to live must do for the next caller's request.
        self.since.elapsed() < IDLE.min(self.asked / 2)
    }
}

impl<L: Send + 'static> Spares<L> {
    /// Starts without leases.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(State { kept: Vec::new(), swept: None, closed: false })))
    }

    /// Keeps a lease for whoever asks for the same time to live as its last owner did.
    ///
    /// It is dropped instead if many are kept already, after [`close`](Self::close), or outside a tokio runtime. Its
    /// time to live must have been restarted less than a third of it ago, or be about to lapse anyway.
    pub fn keep(&self, asked: Duration, lease: L) {
        let Ok(runtime) = Handle::try_current() else { return };
        let mut state = lock(&self.0);
        state.drop_idle();
        if state.closed || state.kept.len() >= MOST {
            return;
        }
        state.kept.push(Spare { asked, since: Moment::now(), lease });
        // One on a runtime that nobody drives does not look.
        if state.swept.is_none_or(|last| last.elapsed() > IDLE * 2) {
            state.swept = Some(Moment::now());
            runtime.spawn(sweep(Sweeper { state: Arc::downgrade(&self.0), ended: false }));
        }
    }

    /// Takes a lease that was asked for with this time to live.
    pub fn take(&self, asked: Duration) -> Option<L> {
        let mut state = lock(&self.0);
        // The youngest first: it has the most time left.
        let at = state.kept.iter().rposition(|spare| spare.asked == asked && spare.is_fresh())?;
        Some(state.kept.remove(at).lease)
    }

    /// Drops every lease, and keeps none from now on ([clause L12](crate::contract::CLAUSES#L12)).
    pub fn close(&self) {
        let mut state = lock(&self.0);
        state.closed = true;
        state.kept.clear();
    }
}

impl<L> State<L> {
    /// Under the lock, so that whoever closes finds that what was idle has begun to be given back.
    fn drop_idle(&mut self) {
        self.kept.retain(Spare::is_fresh);
    }
}

impl<L: Send + 'static> Default for Spares<L> {
    fn default() -> Self {
        Self::new()
    }
}

fn lock<L>(state: &Mutex<State<L>>) -> MutexGuard<'_, State<L>> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The duty to give back what nobody takes. It ends, at the latest, with the runtime of its task.
struct Sweeper<L> {
    state: Weak<Mutex<State<L>>>,
    /// The duty is over, and perhaps another task's by now.
    ended: bool,
}

impl<L> Drop for Sweeper<L> {
    fn drop(&mut self) {
        if !self.ended
            && let Some(state) = self.state.upgrade()
        {
            lock(&state).swept = None;
        }
    }
}

async fn sweep<L>(mut sweeper: Sweeper<L>) {
    loop {
        sleep(IDLE / 2).await;
        let Some(state) = sweeper.state.upgrade() else { return };
        let mut state = lock(&state);
        state.drop_idle();
        // Under the same lock as `keep`, so that the next lease finds that a sweeper is missing.
        if state.kept.is_empty() {
            state.swept = None;
            sweeper.ended = true;
            return;
        }
        state.swept = Some(Moment::now());
    }
}

/// Waits for a request and for the renewal of its lease, which are sent side by side; a request that is `refused` is not
/// held up by the renewal, which is then dropped.
pub async fn side_by_side<T, R>(
    request: impl Future<Output = T>,
    refused: impl FnOnce(&T) -> bool,
    renewal: impl Future<Output = R>,
) -> (T, Option<R>) {
    match select(pin!(request), pin!(renewal)).await {
        Either::Left((answer, _)) if refused(&answer) => (answer, None),
        Either::Left((answer, renewal)) => {
            let renewed = renewal.await;
            (answer, Some(renewed))
        }
        Either::Right((renewed, request)) => (request.await, Some(renewed)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn the_youngest_of_the_same_time_to_live_is_taken() {
        let spares = Spares::new();
        for (ttl, lease) in [(TTL, 1), (TTL, 2), (TTL * 2, 3)] {
            spares.keep(ttl, lease);
        }
        assert_eq!([spares.take(TTL), spares.take(TTL), spares.take(TTL)], [Some(2), Some(1), None]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_takes_is_given_back() {
        let (spares, lease) = (Spares::new(), Arc::new(()));
        for _ in 0..2 {
            spares.keep(TTL, Arc::clone(&lease));
            while Arc::strong_count(&lease) > 1 {
                sleep(IDLE / 2).await;
            }
            assert!(spares.take(TTL).is_none());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_of_little_time_is_not_taken_late() {
        let spares = Spares::new();
        spares.keep(IDLE, ());
        sleep(IDLE / 2).await;
        assert!(spares.take(IDLE).is_none());
    }

    #[tokio::test]
    async fn few_are_kept_and_none_after_closing() {
        let (spares, lease) = (Spares::new(), Arc::new(()));
        for _ in 0..2 * MOST {
            spares.keep(TTL, Arc::clone(&lease));
        }
        assert_eq!(Arc::strong_count(&lease), MOST + 1);
        spares.close();
        spares.keep(TTL, Arc::clone(&lease));
        assert_eq!(Arc::strong_count(&lease), 1);
    }

    #[test]
    fn another_runtime_sweeps_when_the_first_has_ended() {
        let runtime = || {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.enable_time().start_paused(true).build().expect("a runtime")
        };
        let (spares, lease) = (Spares::new(), Arc::new(()));
        runtime().block_on(async { spares.keep(TTL, Arc::clone(&lease)) });
        runtime().block_on(async {
            spares.keep(TTL, Arc::clone(&lease));
            while Arc::strong_count(&lease) > 1 {
                sleep(IDLE).await;
            }
        });
    }
}
