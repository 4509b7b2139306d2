//! The queue of a batcher: who may be sent, and which operations go together. Pure: no clock, no task, no lock.

use std::collections::{HashSet, VecDeque};

use super::carrier::Job;
use super::rules::{Duplicates, Rules};

/// An operation in the queue.
pub(super) trait Queued {
    type Job: Job;

    fn job(&self) -> &Self::Job;

    /// Whether its caller gave up.
    fn is_abandoned(&self) -> bool;
}

/// Operations that are sent next.
pub(super) struct Batch<T> {
    /// These go in one request.
    pub(super) together: Vec<T>,
    /// Each of these goes in a request of its own.
    pub(super) alone: Vec<T>,
}

impl<T> Batch<T> {
    pub(super) fn len(&self) -> usize {
        self.together.len() + self.alone.len()
    }
}

/// What the stall guard finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nobody waits, and the guard ends.
    Idle,
    /// Requests have been sent since the last look.
    Moving,
    /// None has; one more is in flight now.
    Stalled,
}

pub(super) struct Queue<T> {
    rules: Rules,
    waiting: VecDeque<T>,
    /// The requests in flight.
    in_flight: usize,
    /// How many of them the stall guard let through beyond the window.
    beyond_window: usize,
    /// How many operations the requests in flight carry.
    carried: usize,
    /// How many requests have been sent so far.
    sent: u64,
    /// Whether a stall guard looks after the queue.
    guarded: bool,
}

impl<T: Queued> Queue<T> {
    pub(super) fn new(rules: Rules) -> Self {
        Self { rules, waiting: VecDeque::new(), in_flight: 0, beyond_window: 0, carried: 0, sent: 0, guarded: false }
    }

    pub(super) fn rules(&self) -> &Rules {
        &self.rules
    }

    /// How many operations wait or are in flight.
    fn jobs(&self) -> usize {
        self.waiting.len() + self.carried
    }

    /// Whether an operation may be sent at once, alone; then a request more is in flight.
    pub(super) fn admit(&mut self, window: impl FnOnce(usize) -> usize) -> bool {
        let admitted = self.in_flight < window(self.jobs()).max(1);
        if admitted {
            self.in_flight += 1;
            self.carried += 1;
            self.sent += 1;
        }
        admitted
    }

    /// Adds an operation; `true` if the queue had no stall guard, which the caller must start.
    pub(super) fn push(&mut self, one: T) -> bool {
        self.waiting.push_back(one);
        !std::mem::replace(&mut self.guarded, true)
    }

    /// What is sent in place of a request that has returned, and that carried so many operations.
    ///
    /// `None` if nothing waits or enough requests are in flight without it; then it is not in flight any more.
    pub(super) fn next(&mut self, returned: usize, window: impl FnOnce(usize) -> usize) -> Option<Batch<T>> {
        self.carried -= returned;
        let jobs = self.jobs();
        let window = window(jobs).max(1);
        if self.in_flight <= window {
            self.beyond_window = 0;
        }
        if self.in_flight <= window + self.beyond_window {
            let batch = self.take(jobs.div_ceil(window));
            if batch.len() > 0 {
                self.sent += 1;
                self.carried += batch.len();
                return Some(batch);
            }
        }
        self.in_flight -= 1;
        None
    }

    /// Takes at most `share` operations that may travel together, the oldest first.
    fn take(&mut self, share: usize) -> Batch<T> {
        let Rules { operations: most_operations, bytes: most_bytes, duplicates, .. } = self.rules;
        let mut batch = Batch { together: Vec::new(), alone: Vec::new() };
        let (mut operations, mut bytes) = (0, 0);
        let mut keys = HashSet::new();
        let mut left = Vec::new();
        // The look ahead is bounded, or a queue full of one key would be walked through for each of its operations.
        while batch.len() < share
            && operations < most_operations
            && left.len() < 2 * most_operations
            && let Some(one) = self.waiting.pop_front()
        {
            if one.is_abandoned() {
                continue;
            }
            let (more, size) = (one.job().operations(), one.job().bytes());
            let fits =
                batch.together.is_empty() || (operations + more <= most_operations && bytes + size <= most_bytes);
            // The keys of what stays behind count too: an operation must not overtake an older one of its key.
            let is_first = one.job().unique_key().is_none_or(|key| keys.insert(key));
            if fits && is_first {
                (operations, bytes) = (operations + more, bytes + size);
                batch.together.push(one);
            } else if !is_first && duplicates == Duplicates::Alone {
                batch.alone.push(one);
            } else {
                left.push(one);
            }
        }
        for one in left.into_iter().rev() {
            self.waiting.push_front(one);
        }
        batch
    }

    /// Compares the number of requests sent with what it was at the last look, which it replaces.
    pub(super) fn progress(&mut self, last_look: &mut Option<u64>) -> Progress {
        if self.waiting.is_empty() {
            return Progress::Idle;
        }
        if last_look.replace(self.sent) != Some(self.sent) {
            return Progress::Moving;
        }
        self.in_flight += 1;
        self.beyond_window += 1;
        Progress::Stalled
    }

    /// Notes that the stall guard has ended.
    pub(super) fn guard_ended(&mut self) {
        self.guarded = false;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[derive(Debug, Clone)]
    struct One {
        key: Option<&'static str>,
        bytes: usize,
        operations: usize,
        abandoned: bool,
    }

    impl Job for One {
        type Key = &'static str;

        fn unique_key(&self) -> Option<&'static str> {
            self.key
        }

        fn bytes(&self) -> usize {
            self.bytes
        }

        fn operations(&self) -> usize {
            self.operations
        }
    }

    impl Queued for One {
        type Job = Self;

        fn job(&self) -> &Self {
            self
        }

        fn is_abandoned(&self) -> bool {
            self.abandoned
        }
    }

    fn read() -> One {
        One { key: None, bytes: 1, operations: 1, abandoned: false }
    }

    fn write(key: &'static str) -> One {
        One { key: Some(key), ..read() }
    }

    fn queue(duplicates: Duplicates, jobs: impl IntoIterator<Item = One>) -> Queue<One> {
        let stalled_after = Duration::from_millis(100);
        let rules = Rules { operations: 64, bytes: 1000, largest: 100, duplicates, stalled_after };
        let mut queue = Queue::new(rules);
        for job in jobs {
            queue.push(job);
        }
        queue
    }

    /// Takes the next batch as a request that carried nothing and is the only one.
    fn next(queue: &mut Queue<One>) -> (Vec<&'static str>, Vec<&'static str>) {
        queue.in_flight = 1;
        queue.carried = 0;
        let keys = |jobs: Vec<One>| jobs.into_iter().filter_map(|one| one.key).collect();
        queue.next(0, |_| 1).map_or_else(Default::default, |batch| (keys(batch.together), keys(batch.alone)))
    }

    #[test]
    fn requests_in_flight_have_equal_shares() {
        let mut queue = queue(Duplicates::Wait, []);
        let submit = |queue: &mut Queue<One>| {
            if !queue.admit(|_| 3) {
                queue.push(read());
            }
        };
        (0..12).for_each(|_| submit(&mut queue));
        let size = |queue: &mut Queue<One>, returned| queue.next(returned, |_| 3).map(|batch| batch.len());
        // Nine wait, and two are in flight: a third of eleven goes next.
        assert_eq!([1, 1, 1].map(|returned| size(&mut queue, returned)), [Some(4), Some(4), Some(1)]);
        // Four have come back, and all ask again, while five are in flight.
        (0..4).for_each(|_| submit(&mut queue));
        assert_eq!(size(&mut queue, 4), Some(3));
        assert_eq!([4, 1, 3, 1].map(|returned| size(&mut queue, returned)), [Some(1), None, None, None]);
        assert_eq!((queue.in_flight, queue.carried), (0, 0));
    }

    #[test]
    fn a_duplicate_waits_and_keeps_its_place() {
        let mut queue = queue(Duplicates::Wait, ["a", "b", "a", "c", "a"].map(write));
        assert_eq!(next(&mut queue), (vec!["a", "b", "c"], vec![]));
        queue.push(write("b"));
        assert_eq!(next(&mut queue), (vec!["a", "b"], vec![]));
        assert_eq!(next(&mut queue), (vec!["a"], vec![]));
        assert_eq!(next(&mut queue), (vec![], vec![]));
    }

    #[test]
    fn or_a_duplicate_is_sent_alone_at_once() {
        let mut queue = queue(Duplicates::Alone, ["a", "b", "a", "a"].map(write));
        assert_eq!(next(&mut queue), (vec!["a", "b"], vec!["a", "a"]));
    }

    #[test]
    fn one_key_in_great_numbers_is_not_walked_through_each_time() {
        let mut queue = queue(Duplicates::Wait, std::iter::repeat_n(write("a"), 1000).chain([write("b")]));
        assert_eq!(next(&mut queue), (vec!["a"], vec![]));
        assert_eq!(queue.waiting.len(), 1000);
    }

    #[test]
    fn operations_and_bytes_are_limited() {
        let mut queue = queue(Duplicates::Wait, std::iter::repeat_n(One { operations: 2, ..read() }, 100));
        queue.in_flight = 1;
        assert_eq!(queue.next(0, |_| 1).map(|batch| batch.len()), Some(32));
        queue.waiting = std::iter::repeat_n(One { bytes: 400, ..read() }, 5).collect();
        assert_eq!(queue.next(32, |_| 1).map(|batch| batch.len()), Some(2));
        queue.waiting.push_front(One { bytes: 5000, ..read() });
        assert_eq!(queue.next(2, |_| 1).map(|batch| batch.len()), Some(1), "a large one goes in a batch of its own");
    }

    #[test]
    fn an_operation_that_does_not_fit_is_not_overtaken_by_one_of_its_key() {
        let large = One { bytes: 900, ..write("b") };
        let mut queue = queue(Duplicates::Wait, [One { bytes: 200, ..write("a") }, large, write("b"), write("c")]);
        assert_eq!(next(&mut queue), (vec!["a", "c"], vec![]));
        assert_eq!(next(&mut queue), (vec!["b"], vec![]));
        assert_eq!(next(&mut queue), (vec!["b"], vec![]));
    }

    #[test]
    fn whoever_gave_up_is_left_out() {
        let abandoned = One { abandoned: true, ..write("a") };
        let mut queue = queue(Duplicates::Wait, [abandoned.clone(), write("b"), abandoned]);
        assert_eq!(next(&mut queue), (vec!["b"], vec![]));
        assert_eq!(next(&mut queue), (vec![], vec![]));
        assert_eq!(queue.in_flight, 0);
    }

    #[test]
    fn a_window_that_shrinks_takes_requests_out_of_flight() {
        let mut queue = queue(Duplicates::Wait, []);
        assert!((0..4).all(|_| queue.admit(|_| 4)) && !queue.admit(|_| 4));
        for _ in 0..8 {
            queue.push(read());
        }
        assert!(queue.next(1, |_| 2).is_none() && queue.next(1, |_| 2).is_none());
        assert!(queue.next(1, |_| 2).is_some(), "two may stay in flight");
    }

    #[test]
    fn a_stalled_queue_gets_one_more_request_which_goes_on() {
        let mut queue = queue(Duplicates::Wait, []);
        assert!(queue.admit(|_| 1));
        assert!(queue.push(read()) && !queue.push(read()), "the first needs a guard");
        let mut last_look = None;
        assert_eq!(queue.progress(&mut last_look), Progress::Moving);
        assert_eq!(queue.progress(&mut last_look), Progress::Stalled);
        assert_eq!(queue.in_flight, 2);
        let carried = queue.next(0, |_| 1).expect("a batch").len();
        queue.push(read());
        assert_eq!(queue.progress(&mut last_look), Progress::Moving);
        assert!(queue.next(carried, |_| 1).is_some(), "the first request is still stalled");
        assert_eq!(queue.progress(&mut last_look), Progress::Idle);
    }
}
