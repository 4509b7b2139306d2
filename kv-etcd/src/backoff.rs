//! Pauses between attempts to bring something back: doubling up to a limit, with jitter. What happens is told.

use std::fmt::Display;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::Duration;

use kv_core::observability::{reconnected, reconnecting};

use crate::NAME;

pub(crate) struct Backoff {
    /// What is brought back.
    what: &'static str,
    /// How many failures there were since it last worked.
    failures: usize,
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(what: &'static str, first: Duration, longest: Duration) -> Self {
        Self { what, failures: 0, first, longest, next: first }
    }

    /// The pause after a failure: between half of what is due and all of it, so that many clients do not come back at
    /// once.
    pub(crate) fn failed(&mut self, error: &dyn Display) -> Duration {
        self.failures += 1;
        reconnecting(NAME, self.what, self.failures, error);
        let due = self.next;
        self.next = (due * 2).min(self.longest);
        let part = u32::try_from(random() % 1024).unwrap_or(0);
        due / 2 + due / 2 * part / 1024
    }

    /// It works.
    pub(crate) fn worked(&mut self) {
        if self.failures > 0 {
            reconnected(NAME, self.what, self.failures);
        }
        self.failures = 0;
        self.next = self.first;
    }
}

/// A number that another process, and another call, is very unlikely to get.
pub(crate) fn random() -> u64 {
    // The standard library keys each of these from the system's randomness.
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_limit_and_start_anew_after_success() {
        let (first, longest) = (Duration::from_millis(50), Duration::from_millis(300));
        let mut backoff = Backoff::new("watch", first, longest);
        for due in [50, 100, 200, 300, 300] {
            let (due, pause) = (Duration::from_millis(due), backoff.failed(&"gone"));
            assert!(due / 2 <= pause && pause <= due, "{pause:?} of {due:?}");
        }
        backoff.worked();
        assert!(backoff.failed(&"gone") <= first);
    }

    #[test]
    fn random_numbers_differ() {
        let numbers: std::collections::BTreeSet<u64> = (0..1000).map(|_| random()).collect();
        assert_eq!(numbers.len(), 1000);
    }
}
