//! The window, and the queue that follows it, in front of simulated servers on a clock of numbers.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::super::carrier::Job;
use super::super::queue::{Queue, Queued};
use super::super::rules::{Duplicates, Rules};
use super::*;

const MOST: usize = 100;

fn micros(number: u64) -> Duration {
    Duration::from_micros(number)
}

fn millis(number: u64) -> Duration {
    Duration::from_millis(number)
}

struct Driver;

impl Bounds for Driver {
    fn few(&self, _jobs: usize) -> usize {
        3
    }

    fn most(&self) -> usize {
        MOST
    }
}

/// A window that has seen these round trips, one after the other.
fn after(round_trips: impl IntoIterator<Item = Duration>) -> Window {
    let (mut window, mut now) = (Window::default(), Duration::ZERO);
    for took in round_trips {
        now += took;
        window.returned(now, took);
    }
    window
}

fn requests(window: &Window) -> usize {
    window.room(1000, &Driver).requests
}

#[test]
fn near_by_few_are_in_flight_however_long_answers_take() {
    for took in [micros(150), micros(400), micros(900)] {
        assert_eq!(after([took; 10]).room(1000, &Driver), Room { requests: 3, is_far: false });
    }
    let busy = after([micros(150)].into_iter().chain([millis(20); 100]));
    assert_eq!(requests(&busy), 3);
}

#[test]
fn what_the_distance_takes_is_filled() {
    let of = |took| requests(&after([took; 10]));
    assert_eq!([millis(2), millis(10), millis(40), millis(100)].map(of), [6, 22, 82, MOST]);
    assert!(Window::default().room(1000, &Driver).is_far, "before the first answer nobody waits");
}

#[test]
fn a_busy_server_gets_fewer_requests_and_a_pause_ends_that() {
    let mut window = after([millis(10); 10].into_iter().chain([millis(40); 50]));
    assert_eq!(requests(&window), 3 + 4, "a quarter of the nineteen that the distance holds");
    window.idle();
    assert_eq!(requests(&window), 22);
}

#[test]
fn a_distance_that_changes_is_followed() {
    let to = |from: Duration, to: Duration| after([from; 10].into_iter().chain(std::iter::repeat_n(to, 2000)));
    assert_eq!(requests(&to(millis(10), micros(200))), 3);
    assert_eq!(requests(&to(micros(200), millis(10))), 22);
}

struct Call;

impl Job for Call {
    type Key = ();

    fn unique_key(&self) -> Option<()> {
        None
    }

    fn bytes(&self) -> usize {
        1
    }
}

impl Queued for Call {
    type Job = Self;

    fn job(&self) -> &Self {
        self
    }

    fn is_abandoned(&self) -> bool {
        false
    }
}

/// A server that works on one request after the other, some way off.
struct Server {
    distance: Duration,
    /// What a request costs, and each of its operations.
    work: (Duration, Duration),
    free_at: Duration,
    requests: usize,
}

impl Server {
    fn new(distance: Duration) -> Self {
        Self { distance, work: (micros(60), micros(4)), free_at: Duration::ZERO, requests: 0 }
    }

    /// When the answer to a request arrives that is sent now.
    fn answer(&mut self, now: Duration, operations: usize) -> Duration {
        self.requests += 1;
        let work = self.work.0 + self.work.1 * u32::try_from(operations).expect("a small number");
        self.free_at = self.free_at.max(now + self.distance / 2) + work;
        self.free_at + self.distance / 2
    }
}

/// Callers that each make some calls, one after the other, beginning now.
struct Callers {
    queue: Queue<Call>,
    now: Duration,
    /// The requests in flight: when they are answered, when they began, and how many operations they carry.
    in_flight: BinaryHeap<Reverse<(Duration, Duration, usize)>>,
}

impl Callers {
    fn new() -> Self {
        let stalled_after = millis(100);
        let rules = Rules { operations: 64, bytes: 1000, largest: 100, duplicates: Duplicates::Wait, stalled_after };
        Self { queue: Queue::new(rules), now: Duration::ZERO, in_flight: BinaryHeap::new() }
    }

    /// Runs until all calls are answered, and returns how long that took.
    fn run(&mut self, server: &mut Server, callers: usize, calls: usize) -> Duration {
        let began = self.now;
        let mut left = callers * calls;
        self.submit(server, callers);
        left -= callers;
        while let Some(Reverse((answered, sent, carried))) = self.in_flight.pop() {
            self.now = answered;
            self.queue.answered(self.now, answered.saturating_sub(sent));
            // The batcher lets those who were answered submit before the permit goes on.
            self.queue.gather_again();
            let again = carried.min(left);
            left -= again;
            self.submit(server, again);
            self.next(server, carried);
        }
        assert_eq!((left, self.queue.waiting()), (0, 0));
        self.now.saturating_sub(began)
    }

    fn submit(&mut self, server: &mut Server, calls: usize) {
        let mut gathering = 0;
        for _ in 0..calls {
            if self.queue.admit(&Driver) {
                self.send(server, 1);
            } else {
                self.queue.push(Call);
                gathering += usize::from(self.queue.gather(&Driver));
            }
        }
        for _ in 0..gathering {
            self.next(server, 0);
        }
    }

    fn next(&mut self, server: &mut Server, returned: usize) {
        if let Some(batch) = self.queue.next(returned, true, &Driver) {
            self.send(server, batch.len());
        }
    }

    fn send(&mut self, server: &mut Server, operations: usize) {
        self.in_flight.push(Reverse((server.answer(self.now, operations), self.now, operations)));
    }
}

/// The time of so many callers with five calls each, in round trips, and the requests of each round trip.
fn measured(distance: Duration, callers: usize) -> (f64, usize) {
    let (mut server, mut all) = (Server::new(distance), Callers::new());
    let took = all.run(&mut server, callers, 5);
    (took.div_duration_f64(distance), server.requests / 5)
}

#[test]
fn far_away_five_calls_take_five_round_trips() {
    for (distance, callers, most) in [
        (millis(100), 16, 5.05),
        (millis(100), 128, 5.05),
        (millis(100), 1000, 5.4),
        (millis(100), 4000, 6.5),
        (millis(10), 16, 5.2),
        (millis(10), 128, 5.6),
        (millis(2), 16, 5.7),
    ] {
        let (round_trips, requests) = measured(distance, callers);
        assert!(round_trips < most, "{callers} callers {distance:?} away: {round_trips} round trips");
        assert!(requests <= 2 + callers.div_ceil(32), "{requests} requests for {callers} callers");
    }
}

#[test]
fn near_by_batches_form_as_if_there_were_no_window() {
    let (_, requests) = measured(micros(100), 128);
    assert!(requests <= 6, "{requests} requests for 128 calls");
}

#[test]
fn a_burst_after_a_pause_is_as_fast_as_the_first() {
    let (mut server, mut all) = (Server::new(millis(10)), Callers::new());
    // So many that the server is busy, and one lone call.
    all.run(&mut server, 4000, 5);
    all.run(&mut server, 1, 1);
    for pause in [Duration::ZERO, millis(50), Duration::from_secs(60)] {
        all.now += pause;
        let took = all.run(&mut server, 128, 5);
        assert!(took < millis(56), "{took:?} after a pause of {pause:?}");
    }
}

#[test]
fn a_request_that_is_lost_does_not_hold_up_the_others() {
    let (mut server, mut all) = (Server::new(millis(10)), Callers::new());
    all.run(&mut server, 16, 5);
    // Nobody ever answers it.
    assert!(all.queue.admit(&Driver));
    let took = all.run(&mut server, 128, 5);
    assert!(took < millis(56), "{took:?}");
}
