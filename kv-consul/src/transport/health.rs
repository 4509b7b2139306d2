//! What is known about the agents: which one is asked first, and which one a write must not meet unawares.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use kv_core::backend::rotation::Rotation;

/// If callers have waited this long at an agent in vain, all together since it last answered, it hangs.
///
/// A single caller may be too impatient to find that out: its timeout may be shorter.
const SILENCE: Duration = Duration::from_millis(200);

/// The state of the agents, which all runtimes of a handle share.
///
/// There are two kinds of failure. An agent that *refuses* answered, but cannot serve now, for example because it knows
/// no leader. An agent that is *broken* does not answer: nothing is known about a write that it was sent. So it is
/// asked after those that refuse, and gets no write before it has answered something harmless.
pub(super) struct Health {
    rotation: Rotation,
    agents: Vec<State>,
}

#[derive(Default)]
struct State {
    broken: AtomicBool,
    /// How long callers have waited in vain since it last answered, in milliseconds.
    waited: AtomicU64,
}

impl Health {
    pub(super) fn new(agents: usize) -> Self {
        let agents: Vec<State> = std::iter::repeat_with(State::default).take(agents).collect();
        Self { rotation: Rotation::new(agents.len()), agents }
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

    /// Whether it has not answered anything since it last failed to.
    pub(super) fn is_broken(&self, agent: usize) -> bool {
        self.agents.get(agent).is_some_and(|state| state.broken.load(Ordering::Relaxed))
    }

    /// Notes that an agent sent an answer, whatever it says.
    pub(super) fn heard(&self, agent: usize) {
        if let Some(state) = self.agents.get(agent) {
            // Written only if they change: every call of every thread comes here.
            if state.waited.load(Ordering::Relaxed) != 0 {
                state.waited.store(0, Ordering::Relaxed);
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

    /// Notes that an agent cannot serve now, or takes long to answer.
    pub(super) fn refused(&self, agent: usize) {
        self.rotation.failed(agent);
    }

    /// Notes that a connection to an agent broke, or could not be made.
    pub(super) fn broke(&self, agent: usize) {
        if let Some(state) = self.agents.get(agent) {
            state.broken.store(true, Ordering::Relaxed);
            state.waited.store(0, Ordering::Relaxed);
        }
        self.rotation.failed(agent);
    }

    /// Notes that a caller gave up waiting for an agent; returns whether the agent counts as broken now.
    pub(super) fn gave_up(&self, agent: usize, waited: Duration) -> bool {
        let Some(state) = self.agents.get(agent) else { return false };
        let millis = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
        let before = state.waited.fetch_add(millis, Ordering::Relaxed);
        let hangs = before.saturating_add(millis) >= u64::try_from(SILENCE.as_millis()).unwrap_or(u64::MAX);
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
        let first = health.first();
        let waited = SILENCE / 4;
        assert!((0..3).all(|_| !health.gave_up(first, waited)));
        // An answer in between shows that it does not hang.
        health.heard(first);
        assert!((0..3).all(|_| !health.gave_up(first, waited)));
        assert!(health.gave_up(first, waited));
        assert_ne!(health.first(), first);
    }
}
