//! The queue of a batcher: who may be sent, and which operations go together. Pure: no clock, no task, no lock.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use super::carrier::Job;
use super::rules::{Duplicates, Rules};
use super::window::{Bounds, Room, Window};

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
    window: Window,
    waiting: VecDeque<T>,
    /// The requests in flight.
    in_flight: usize,
    /// How many of them have not taken their operations yet.
    gathering: usize,
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
        Self {
            rules,
            window: Window::default(),
            waiting: VecDeque::new(),
            in_flight: 0,
            gathering: 0,
            beyond_window: 0,
            carried: 0,
            sent: 0,
            guarded: false,
        }
    }

    pub(super) fn rules(&self) -> &Rules {
        &self.rules
    }

    /// How many operations wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// How many operations wait or are in flight.
    fn jobs(&self) -> usize {
        self.waiting.len() + self.carried
    }

    /// Notes that a request was answered at `now`, after `took`.
    pub(super) fn answered(&mut self, now: Duration, took: Duration) {
        self.window.returned(now, took);
    }

    /// Whether an operation may be sent at once, alone; then a request more is in flight.
    ///
    /// Nobody overtakes those who wait. Far from the server only the first operation leaves alone: those that follow
    /// it in the same moment go together.
    pub(super) fn admit(&mut self, bounds: &impl Bounds) -> bool {
        if !self.waiting.is_empty() {
            return false;
        }
        if self.in_flight > 0 {
            let Room { requests, is_far } = self.window.room(self.jobs(), bounds);
            if is_far || self.in_flight >= requests {
                return false;
            }
        }
        self.start();
        self.carried += 1;
        self.sent += 1;
        true
    }

    fn start(&mut self) {
        if self.in_flight == 0 {
            self.window.idle();
        }
        self.in_flight += 1;
    }

    /// Adds an operation; `true` if the queue had no stall guard, which the caller must start.
    pub(super) fn push(&mut self, one: T) -> bool {
        self.waiting.push_back(one);
        !std::mem::replace(&mut self.guarded, true)
    }

    /// Whether one more request is to leave, with what waits by then. It is in flight from now on, and gathers.
    pub(super) fn gather(&mut self, bounds: &impl Bounds) -> bool {
        // Those that gather already take a full batch each.
        let gathers = self.waiting.len() > self.gathering * self.rules.operations
            && self.in_flight < self.window.room(self.jobs(), bounds).requests;
        if gathers {
            self.start();
            self.gathering += 1;
        }
        gathers
    }

    /// Notes that a request has returned, and gathers what waits for the next one.
    pub(super) fn gather_again(&mut self) {
        self.gathering += 1;
    }

    /// Whether those who gather do so for as long as more operations come. Far from the server that costs no time.
    pub(super) fn is_patient(&self, bounds: &impl Bounds) -> bool {
        self.waiting.len() < self.rules.operations && self.window.room(self.jobs(), bounds).is_far
    }

    /// What is sent by a request that gathered, and that carried so many operations before.
    ///
    /// `None` if nothing waits or enough requests are in flight without it; then it is not in flight any more.
    pub(super) fn next(&mut self, returned: usize, gathered: bool, bounds: &impl Bounds) -> Option<Batch<T>> {
        self.carried -= returned;
        self.gathering -= usize::from(gathered);
        let jobs = self.jobs();
        let Room { requests, is_far } = self.window.room(jobs, bounds);
        if self.in_flight <= requests {
            self.beyond_window = 0;
        }
        if self.in_flight <= requests + self.beyond_window {
            // Near by, all requests together carry what there is. Far away, whatever waits leaves.
            let batch = self.take(if is_far { usize::MAX } else { jobs.div_ceil(requests) });
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

    /// A near server that is kept busy by so many requests.
    struct Near(usize);

    impl Bounds for Near {
        fn few(&self, _jobs: usize) -> usize {
            self.0
        }

        fn most(&self) -> usize {
            self.0
        }
    }

    /// A server that takes any number of requests.
    struct Far;

    impl Bounds for Far {
        fn few(&self, _jobs: usize) -> usize {
            1
        }

        fn most(&self) -> usize {
            usize::MAX
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
        queue.next(0, false, &Near(1)).map_or_else(Default::default, |batch| (keys(batch.together), keys(batch.alone)))
    }

    #[test]
    fn requests_in_flight_have_equal_shares() {
        let mut queue = queue(Duplicates::Wait, []);
        let submit = |queue: &mut Queue<One>| {
            if !queue.admit(&Near(3)) {
                queue.push(read());
            }
        };
        (0..12).for_each(|_| submit(&mut queue));
        let size = |queue: &mut Queue<One>, returned| queue.next(returned, false, &Near(3)).map(|batch| batch.len());
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
        assert_eq!(queue.next(0, false, &Near(1)).map(|batch| batch.len()), Some(32));
        queue.waiting = std::iter::repeat_n(One { bytes: 400, ..read() }, 5).collect();
        assert_eq!(queue.next(32, false, &Near(1)).map(|batch| batch.len()), Some(2));
        queue.waiting.push_front(One { bytes: 5000, ..read() });
        assert_eq!(
            queue.next(2, false, &Near(1)).map(|batch| batch.len()),
            Some(1),
            "a large one goes in a batch of its own"
        );
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
        assert!((0..4).all(|_| queue.admit(&Near(4))) && !queue.admit(&Near(4)));
        for _ in 0..8 {
            queue.push(read());
        }
        assert!(queue.next(1, false, &Near(2)).is_none() && queue.next(1, false, &Near(2)).is_none());
        assert!(queue.next(1, false, &Near(2)).is_some(), "two may stay in flight");
    }

    #[test]
    fn a_stalled_queue_gets_one_more_request_which_goes_on() {
        let mut queue = queue(Duplicates::Wait, []);
        assert!(queue.admit(&Near(1)));
        assert!(queue.push(read()) && !queue.push(read()), "the first needs a guard");
        let mut last_look = None;
        assert_eq!(queue.progress(&mut last_look), Progress::Moving);
        assert_eq!(queue.progress(&mut last_look), Progress::Stalled);
        assert_eq!(queue.in_flight, 2);
        let carried = queue.next(0, false, &Near(1)).expect("a batch").len();
        queue.push(read());
        assert_eq!(queue.progress(&mut last_look), Progress::Moving);
        assert!(queue.next(carried, false, &Near(1)).is_some(), "the first request is still stalled");
        assert_eq!(queue.progress(&mut last_look), Progress::Idle);
    }

    #[test]
    fn nobody_overtakes_those_who_wait() {
        let mut queue = queue(Duplicates::Wait, []);
        assert!(queue.admit(&Near(1)) && !queue.admit(&Near(1)));
        queue.push(read());
        // The window has grown meanwhile.
        assert!(!queue.admit(&Near(3)));
        assert!(queue.gather(&Near(3)) && !queue.gather(&Near(3)), "one request gathers all that waits");
        assert_eq!(queue.next(0, true, &Near(3)).map(|batch| batch.len()), Some(1));
        assert!(queue.admit(&Near(3)));
    }

    #[test]
    fn far_away_what_waits_leaves_together_without_an_answer() {
        let mut queue = queue(Duplicates::Wait, []);
        assert!(queue.admit(&Far) && !queue.admit(&Far), "the first leaves alone");
        let mut gathering = 0;
        for _ in 0..150 {
            queue.push(read());
            gathering += usize::from(queue.gather(&Far));
        }
        assert_eq!(gathering, 3, "one for each full batch");
        let sizes = [64, 64, 22].map(|size| queue.next(0, true, &Far).map_or(0, |batch| batch.len()) == size);
        assert_eq!(sizes, [true; 3]);
        assert_eq!((queue.in_flight, queue.gathering, queue.waiting()), (4, 0, 0));
        assert!(queue.next(64, false, &Far).is_none() && queue.next(22, false, &Far).is_none());
    }
}
