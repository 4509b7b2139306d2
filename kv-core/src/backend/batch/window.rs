//! How many requests may be in flight: it follows the distance to the server. Pure: the clock is an argument.

use std::time::Duration;

/// The part of a round trip that the work of a server near by explains. Only the rest counts as distance.
const NEAR: Duration = Duration::from_micros(500);

/// A distance holds one request for each such time, in addition to those that keep a near server busy.
///
/// It is a few times what a server saves when two requests become one. So an operation that finds the window full waits
/// about as long for the next request as its batching saves.
const SPACING: Duration = Duration::from_micros(500);

/// The distance that is assumed before the first answer. A first burst of thousands of operations is not held up by it.
const ASSUMED: Duration = Duration::from_millis(20);

/// How long a round trip counts as the least one; at most twice that.
const PERIOD: Duration = Duration::from_secs(5);

/// What a carrier says about the requests that its server takes.
pub(super) trait Bounds {
    /// How many requests keep a near server busy.
    fn few(&self, jobs: usize) -> usize;

    /// How many requests the server takes at once.
    fn most(&self) -> usize;
}

/// How many requests may be in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) requests: usize,
    /// The distance takes the time, not the work of the server.
    pub(super) is_far: bool,
}

/// Follows the round trips.
///
/// The least one of the last seconds is the distance. The present one in comparison (the gradient) says how busy the
/// server is: if requests take twice as long as the distance explains, half as many more may be in flight.
#[derive(Debug, Default)]
pub(super) struct Window {
    least: Least,
    /// The present round trip, smoothed; `None` if no request has returned since the server was idle.
    present: Option<Duration>,
}

impl Window {
    /// Notes that no request is in flight, so that earlier queues at the server are over.
    pub(super) fn idle(&mut self) {
        self.present = None;
    }

    /// Notes that a request was answered at `now`, after `took`.
    pub(super) fn returned(&mut self, now: Duration, took: Duration) {
        self.least.note(now, took);
        self.present = Some(self.present.map_or(took, |present| (present * 7 + took) / 8));
    }

    /// How many requests may be in flight where there are so many operations; at least 1.
    pub(super) fn room(&self, jobs: usize, bounds: &impl Bounds) -> Room {
        let few = bounds.few(jobs).max(1);
        let far = self.beyond_near();
        if far == 0 {
            return Room { requests: few, is_far: false };
        }
        let requests = (few + far).min(bounds.most()).max(1);
        Room { requests, is_far: requests > few }
    }

    /// How many requests the distance holds beside those that keep a near server busy.
    fn beyond_near(&self) -> usize {
        let least = self.least.get();
        let present = self.present.unwrap_or(least).max(least);
        let distance = least.saturating_sub(NEAR).as_micros();
        // A quotient of durations that a float would round: distance / SPACING * least / present.
        let beyond = distance * least.as_micros() / (SPACING.as_micros() * present.as_micros().max(1));
        usize::try_from(beyond).unwrap_or(usize::MAX / 2)
    }
}

/// The least round trip of this period and the one before. An older one says nothing about the present way.
#[derive(Debug, Default)]
struct Least {
    since: Duration,
    current: Option<Duration>,
    before: Option<Duration>,
}

impl Least {
    fn note(&mut self, now: Duration, took: Duration) {
        if now.saturating_sub(self.since) >= PERIOD {
            self.since = now;
            self.before = self.current.take();
        }
        self.current = Some(self.current.map_or(took, |current| current.min(took)));
    }

    fn get(&self) -> Duration {
        self.current.into_iter().chain(self.before).min().unwrap_or(ASSUMED)
    }
}

#[cfg(test)]
mod tests;
