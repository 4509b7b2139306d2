//! The health of the agents: which one is asked first, and which one must answer a probe before it gets a write.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use kv_core::backend::rotation::Rotation;
use tokio::time::Instant;

/// An agent hangs if callers have waited for it and it has not answered any for this long.
///
/// The timeout of a single caller may be shorter. So the time counts from the first caller that gave up.
const SILENCE: Duration = Duration::from_millis(200);

/// The state of the agents, which all runtimes of a handle share.
///
/// There are two kinds of failure. An agent that *refuses* answered, but cannot serve now, for example because it knows
/// no leader. An agent that is *broken* does not answer, so the fate of a write that it gets is unknown. So it is asked
/// after those that refuse, and gets no write before it has answered a probe.
pub(super) struct Health {
    rotation: Rotation,
    agents: Vec<State>,
    began: Instant,
}

#[derive(Default)]
struct State {
    broken: AtomicBool,
    /// Since when it has not answered, although a caller waited, in microseconds since `began`; 0 if it answered.
    silent_since: AtomicU64,
}

impl Health {
    pub(super) fn new(agents: usize) -> Self {
        let agents: Vec<State> = std::iter::repeat_with(State::default).take(agents).collect();
        Self { rotation: Rotation::new(agents.len()), agents, began: Instant::now() }
    }

    /// The order in which a call asks the agents: those that are broken come last.
    pub(super) fn order(&self) -> Vec<usize> {
        let mut order = self.rotation.order();
        order.sort_by_key(|at| self.is_broken(*at));
        order
    }

    pub(super) fn first(&self) -> usize {
        let first = self.rotation.first();
        if self.is_broken(first) { self.order().first().copied().unwrap_or_default() } else { first }
    }

    /// Whether it has not answered since its last failure.
    pub(super) fn is_broken(&self, agent: usize) -> bool {
        self.agents.get(agent).is_some_and(|state| state.broken.load(Ordering::Relaxed))
    }

    /// Notes that an agent sent an answer, whatever it says.
    pub(super) fn heard(&self, agent: usize) {
        if let Some(state) = self.agents.get(agent) {
            // Written only on a change, because every call of every thread comes here.
            if state.silent_since.load(Ordering::Relaxed) != 0 {
                state.silent_since.store(0, Ordering::Relaxed);
            }
            if state.broken.load(Ordering::Relaxed) {
                state.broken.store(false, Ordering::Relaxed);
            }
        }
    }

    /// Notes that an agent served a call.
    pub(super) fn served(&self, agent: usize) {
        self.rotation.answered(agent);
    }

    /// Notes that an agent cannot serve now or takes long to answer.
    pub(super) fn refused(&self, agent: usize) {
        self.rotation.failed(agent);
    }

    /// Notes that a connection to an agent broke, or could not be made.
    pub(super) fn broke(&self, agent: usize) {
        if let Some(state) = self.agents.get(agent) {
            state.broken.store(true, Ordering::Relaxed);
            state.silent_since.store(0, Ordering::Relaxed);
        }
        self.rotation.failed(agent);
    }

    /// Notes that a caller gave up at `now`, having waited since `since`; returns whether the agent counts as broken.
    pub(super) fn gave_up(&self, agent: usize, since: Instant, now: Instant) -> bool {
        let Some(state) = self.agents.get(agent) else { return false };
        let micros = since.saturating_duration_since(self.began).as_micros();
        let own = u64::try_from(micros).unwrap_or(u64::MAX).max(1);
        let first = match state.silent_since.compare_exchange(0, own, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => own,
            Err(earlier) => earlier.min(own),
        };
        let hangs = now.saturating_duration_since(self.began + Duration::from_micros(first)) >= SILENCE;
        if hangs {
            self.broke(agent);
        }
        hangs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_agent_comes_after_one_that_refused_later() {
        let health = Health::new(3);
        let [broken, other, last] = health.order()[..] else { panic!("three agents") };
        health.broke(broken);
        health.refused(other);
        health.refused(last);
        assert_eq!(health.order(), [other, last, broken]);
        assert_eq!(health.first(), other);
        health.heard(broken);
        health.served(broken);
        assert_eq!(health.first(), broken);
    }

    #[test]
    fn impatient_callers_find_out_together_that_an_agent_hangs() {
        let health = Health::new(2);
        let (first, began) = (health.first(), Instant::now());
        let waits = |number: u32| (began + SILENCE / 4 * number, began + SILENCE / 4 * (number + 1));
        let gave_up = |number| health.gave_up(first, waits(number).0, waits(number).1);
        assert!(!gave_up(0) && !gave_up(1) && !gave_up(1));
        // An answer in between shows that the agent does not hang.
        health.heard(first);
        assert!(!gave_up(2) && !gave_up(3) && !gave_up(4));
        assert!(gave_up(5));
        assert_ne!(health.first(), first);
    }
}
