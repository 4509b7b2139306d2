//! When the store could serve during planned work, so that callers are only owed what was possible (clause S5).
//!
//! A probe of the fixture's own asks the store again and again. A call with its whole time left that fails while the
//! store could serve for [`ENOUGH`] of it, was owed an answer. On a machine whose elections take longer than a call,
//! the probe shows that.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::context::Context;

/// How long the store must serve without a break for a call that is tried again and again to find it. The pauses
/// between attempts are up to a second.
const ENOUGH: Duration = Duration::from_secs(2);
/// An answer that takes longer counts as none.
const PATIENCE: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(50);

/// When the store was asked, when it answered or did not, and whether it did.
#[derive(Debug, Clone, Copy)]
struct Probe {
    asked: Instant,
    ended: Instant,
    served: bool,
}

/// What the probe has seen so far. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Majority(Arc<Mutex<Vec<Probe>>>);

impl Majority {
    /// Probes the store for as long as it is polled.
    pub(crate) async fn watch(&self, cx: &Context) {
        let Some(faults) = cx.fixture().faults() else { return std::future::pending().await };
        loop {
            let asked = Instant::now();
            let served = tokio::time::timeout(PATIENCE, faults.serves()).await.unwrap_or_default();
            self.probes().push(Probe { asked, ended: Instant::now(), served });
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Whether a call that began and ended then could have succeeded if it had been tried again until its time was up.
    pub(crate) fn owed(&self, began: Instant, ended: Instant, timeout: Duration) -> bool {
        // One that does not use its time is owed an answer in any case.
        ended - began < timeout || self.longest_within(began, ended) >= ENOUGH
    }

    /// How long the store served without a break within these bounds, at the longest.
    fn longest_within(&self, began: Instant, ended: Instant) -> Duration {
        let (mut longest, mut since) = (Duration::ZERO, None);
        for probe in self.probes().iter().filter(|probe| probe.ended > began && probe.asked < ended) {
            if probe.served {
                // Between the question and the answer the store served at some moment, and before the next one, too.
                let first = *since.get_or_insert(probe.ended.min(ended));
                longest = longest.max(probe.ended.min(ended).saturating_duration_since(first));
            } else {
                since = None;
            }
        }
        longest
    }

    /// How often the store did not serve, and for how long at most.
    pub(crate) fn outages(&self) -> (usize, Duration) {
        let (mut outages, mut longest, mut since) = (0, Duration::ZERO, None);
        for probe in &*self.probes() {
            match (probe.served, since) {
                (true, Some(began)) => {
                    longest = longest.max(probe.ended.saturating_duration_since(began));
                    since = None;
                }
                (false, None) => {
                    outages += 1;
                    since = Some(probe.asked);
                }
                _ => {}
            }
        }
        (outages, longest)
    }

    fn probes(&self) -> MutexGuard<'_, Vec<Probe>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A store that serves, or not, second by second.
    fn seen(began: Instant, served: &[bool]) -> Majority {
        let second = |number: usize| began + Duration::from_secs(number as u64);
        let probe = |(number, served): (usize, &bool)| Probe {
            asked: second(number),
            ended: second(number + 1),
            served: *served,
        };
        Majority(Arc::new(Mutex::new(served.iter().enumerate().map(probe).collect())))
    }

    #[test]
    fn callers_are_owed_what_was_possible() {
        const TIMEOUT: Duration = Duration::from_secs(5);
        let began = Instant::now();
        let after = |seconds| began + Duration::from_secs(seconds);
        let without = seen(began, &[true, false, false, false, false, false, true, true, true]);
        assert!(!without.owed(after(1), after(6), TIMEOUT), "nobody served");
        assert!(without.owed(after(1), after(2), TIMEOUT), "it was given up at once");
        assert!(without.owed(after(4), after(9), TIMEOUT), "the store served for the last three seconds");
        assert_eq!(without.outages(), (1, Duration::from_secs(6)));
        let flickers = seen(began, &[true, false, true, false, true, false, true]);
        assert!(!flickers.owed(began, after(7), TIMEOUT));
    }
}
