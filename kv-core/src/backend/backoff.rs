//! Pauses between attempts: they double up to a limit, with jitter.

use std::fmt::Display;
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use crate::observability::{reconnected, reconnecting};

/// The pauses between attempts of one operation.
///
/// Each pause is a random time between half of the current length and all of it, so that many clients do not come back
/// at the same time. The length doubles with each attempt, up to a limit.
///
/// ```
/// # use kv_core::backend::backoff::Backoff;
/// # use std::time::Duration;
/// let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
/// let first = backoff.next();
/// assert!(Duration::from_millis(25) <= first && first <= Duration::from_millis(50));
/// assert!(backoff.next() >= Duration::from_millis(50));
/// backoff.reset();
/// assert_eq!(backoff.attempts(), 0);
/// ```
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    due: Duration,
    attempts: usize,
}

impl Backoff {
    /// Starts with a pause of `first` at most; no pause is longer than `longest`.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, due: first.min(longest), attempts: 0 }
    }

    /// Counts an attempt, and returns the pause after it.
    #[expect(clippy::should_implement_trait, reason = "a sequence without an end is more than an iterator promises")]
    pub fn next(&mut self) -> Duration {
        self.attempts += 1;
        let due = self.due;
        self.due = due.saturating_mul(2).min(self.longest);
        let part = u32::try_from(random() % 1025).unwrap_or_default();
        due / 2 + (due / 2 / 1024) * part
    }

    /// Starts again with the shortest pause, after a success.
    pub fn reset(&mut self) {
        self.due = self.first.min(self.longest);
        self.attempts = 0;
    }

    /// How many attempts were counted since the beginning or the last reset.
    pub fn attempts(&self) -> usize {
        self.attempts
    }
}

/// A [`Backoff`] for restoring something that broke, which also reports to the operator.
///
/// It emits the events `reconnecting` and `reconnected` of [`observability`](crate::observability).
///
/// ```
/// # use kv_core::backend::backoff::{Backoff, Recovery};
/// # use std::time::Duration;
/// let backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
/// let mut recovery = Recovery::new("etcd", "watch", backoff);
/// let pause = recovery.failed(&"the connection was reset");
/// assert!(pause <= Duration::from_millis(50));
/// recovery.worked();
/// ```
#[derive(Debug, Clone)]
pub struct Recovery {
    backend: &'static str,
    what: &'static str,
    backoff: Backoff,
}

impl Recovery {
    /// Prepares the recovery of `what`, such as `watch`, for the backend of this name.
    pub fn new(backend: &'static str, what: &'static str, backoff: Backoff) -> Self {
        Self { backend, what, backoff }
    }

    /// Reports a failure, and returns the pause before the next attempt.
    ///
    /// The first failure since it last worked is a warning; the others are at debug level.
    pub fn failed(&mut self, error: &dyn Display) -> Duration {
        let pause = self.backoff.next();
        reconnecting(self.backend, self.what, self.backoff.attempts(), error);
        pause
    }

    /// Reports that it works; this reports nothing unless it failed before.
    pub fn worked(&mut self) {
        if self.backoff.attempts() > 0 {
            reconnected(self.backend, self.what, self.backoff.attempts());
            self.backoff.reset();
        }
    }

    /// How many attempts failed since it last worked.
    pub fn attempts(&self) -> usize {
        self.backoff.attempts()
    }
}

/// Returns a random number: another call or another process is very unlikely to get the same.
///
/// It is not fit for cryptography.
pub fn random() -> u64 {
    // The standard library seeds each of these from the system's randomness.
    RandomState::new().hash_one(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_limit_and_start_again_after_success() {
        let (first, longest) = (Duration::from_millis(50), Duration::from_millis(300));
        let mut backoff = Backoff::new(first, longest);
        for due in [50, 100, 200, 300, 300] {
            let (due, pause) = (Duration::from_millis(due), backoff.next());
            assert!(due / 2 <= pause && pause <= due, "{pause:?} of {due:?}");
        }
        assert_eq!(backoff.attempts(), 5);
        backoff.reset();
        assert_eq!(backoff.attempts(), 0);
        assert!(backoff.next() <= first);
    }

    #[test]
    fn no_pause_is_longer_than_the_limit() {
        let mut backoff = Backoff::new(Duration::from_secs(2), Duration::from_secs(1));
        for _ in 0..3 {
            assert!(backoff.next() <= Duration::from_secs(1));
            backoff.reset();
        }
        let mut endless = Backoff::new(Duration::MAX / 2, Duration::MAX);
        for _ in 0..200 {
            endless.next();
        }
    }

    #[test]
    fn a_recovery_counts_since_it_last_worked() {
        let mut recovery = Recovery::new("test", "watch", Backoff::new(Duration::from_millis(8), Duration::MAX));
        for _ in 0..3 {
            recovery.failed(&"gone");
        }
        assert_eq!(recovery.attempts(), 3);
        recovery.worked();
        assert_eq!(recovery.attempts(), 0);
        assert!(recovery.failed(&"gone") <= Duration::from_millis(8));
    }

    #[test]
    fn random_numbers_differ() {
        let numbers: std::collections::BTreeSet<u64> = (0..1000).map(|_| random()).collect();
        assert_eq!(numbers.len(), 1000);
    }
}
