//! The queue alone, without a runtime.

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
