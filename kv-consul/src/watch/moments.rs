//! What the store's index was at which time.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// For how long Consul surely knows that something was deleted. It forgets that after 15 minutes.
const KEPT: Duration = Duration::from_secs(10 * 60);

/// The shortest time between two moments that are remembered.
const BETWEEN: Duration = Duration::from_secs(5);

/// Moments at which the store's index was seen.
///
/// Consul forgets which keys were deleted, and does not say whether it has forgotten any since an index. It has not, if
/// the index is recent.
#[derive(Default)]
pub(crate) struct Moments {
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// Everything with an index above that of a moment happened after it.
    moments: VecDeque<(Instant, u64)>,
    /// Indices up to this one may be of another history: the store's index went back.
    doubtful: u64,
}

impl Moments {
    /// Notes that everything with an index above this one happened after `time`.
    pub(crate) fn note(&self, time: Instant, index: u64) {
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

    /// Whether Consul still knows at a time of every deletion with an index above this one.
    pub(crate) fn is_recent(&self, index: u64, now: Instant) -> bool {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut moments = seen.moments.iter();
        index > seen.doubtful && moments.any(|(time, before)| *before <= index && now < *time + KEPT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_recent_for_some_minutes() {
        let (moments, begin) = (Moments::default(), Instant::now());
        assert!(!moments.is_recent(5, begin));
        moments.note(begin, 5);
        let recent = |index, passed| moments.is_recent(index, begin + passed);
        assert!(recent(5, Duration::ZERO) && recent(6, KEPT / 2) && !recent(4, Duration::ZERO));
        moments.note(begin + KEPT / 2, 9);
        assert!(recent(5, KEPT / 2));
        assert!(!recent(8, KEPT) && recent(9, KEPT));
        assert!(!recent(100, 2 * KEPT));
    }

    #[test]
    fn an_index_that_goes_back_leaves_the_older_ones_in_doubt() {
        let (moments, begin) = (Moments::default(), Instant::now());
        moments.note(begin, 50);
        moments.note(begin + BETWEEN, 20);
        let recent = |index| moments.is_recent(index, begin + BETWEEN);
        assert!(!recent(20) && !recent(50) && recent(51));
    }
}
