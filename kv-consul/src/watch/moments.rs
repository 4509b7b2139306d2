//! The store's index at earlier moments.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kv_core::clock::Moment;

/// For how long Consul certainly keeps the index of a deletion. It forgets the index after 15 minutes.
const KEPT: Duration = Duration::from_secs(10 * 60);

/// The shortest time between two moments that are remembered.
const BETWEEN: Duration = Duration::from_secs(5);

/// Moments at which the store's index was seen.
///
/// Consul forgets which keys were deleted, and does not say whether it has forgotten any since an index. For a recent
/// index, it has forgotten none.
#[derive(Default)]
pub(crate) struct Moments {
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// Everything with an index above that of a moment happened after it.
    moments: VecDeque<(Moment, u64)>,
    /// Indices up to this one may belong to another history, because the store's index went back.
    doubtful: u64,
}

impl Moments {
    /// Notes that everything with an index above this one happened after `time`.
    pub(crate) fn note(&self, time: Moment, index: u64) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let last = seen.moments.back().copied();
        if last.is_some_and(|(last, _)| time < last + BETWEEN) {
            return;
        }
        if let Some((_, before)) = last.filter(|(_, before)| index < *before) {
            seen.doubtful = seen.doubtful.max(before);
            seen.moments.clear();
        }
        seen.moments.push_back((time, index));
        while seen.moments.front().is_some_and(|(first, _)| *first + KEPT <= time) {
            seen.moments.pop_front();
        }
    }

    /// Whether Consul still knows of every deletion with an index above this one.
    pub(crate) fn is_recent(&self, index: u64) -> bool {
        self.is_recent_by(index, Moment::elapsed)
    }

    fn is_recent_by(&self, index: u64, age: impl Fn(Moment) -> Duration) -> bool {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut moments = seen.moments.iter();
        index > seen.doubtful && moments.any(|(time, before)| *before <= index && age(*time) < KEPT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn age(time: Moment, now: Moment) -> Duration {
        now.timer().saturating_duration_since(time.timer())
    }

    #[test]
    fn an_index_is_recent_for_some_minutes() {
        let (moments, begin) = (Moments::default(), Moment::now());
        assert!(!moments.is_recent(5));
        moments.note(begin, 5);
        let recent = |index, passed| moments.is_recent_by(index, |time| age(time, begin + passed));
        assert!(recent(5, Duration::ZERO) && recent(6, KEPT / 2) && !recent(4, Duration::ZERO));
        moments.note(begin + KEPT / 2, 9);
        assert!(recent(5, KEPT / 2));
        assert!(!recent(8, KEPT) && recent(9, KEPT));
        assert!(!recent(100, 2 * KEPT));
    }

    #[test]
    fn an_index_that_goes_back_leaves_the_older_ones_in_doubt() {
        let (moments, begin) = (Moments::default(), Moment::now());
        moments.note(begin, 50);
        moments.note(begin + BETWEEN, 20);
        let recent = |index| moments.is_recent_by(index, |time| age(time, begin + BETWEEN));
        assert!(!recent(20) && !recent(50) && recent(51));
    }
}
