//! The batcher with a carrier that records what is sent, on a clock that tokio moves on when everything waits.

use std::future::pending;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::poll;

use super::super::{Carrier, Duplicates, Job, Rules, Verdict};
use super::*;

const ROUND_TRIP: Duration = Duration::from_millis(10);
/// A request with this operation is never answered.
const LOST: u64 = 1000;
/// A request that it shares is refused.
const REFUSED: u64 = 2000;

#[derive(Debug, Clone, Copy)]
struct Number(u64);

impl Job for Number {
    type Key = u64;

    fn unique_key(&self) -> Option<u64> {
        None
    }

    fn bytes(&self) -> usize {
        if self.0 == u64::MAX { 1000 } else { 1 }
    }
}

#[derive(Debug)]
struct Recording {
    sent: Mutex<Vec<Vec<u64>>>,
    most: usize,
}

impl Recording {
    async fn send(&self, numbers: Vec<u64>) {
        let is_lost = numbers.contains(&LOST);
        self.sent.lock().expect("no panic").push(numbers);
        if is_lost {
            pending::<()>().await;
        }
        sleep(ROUND_TRIP).await;
    }

    fn sent(&self) -> Vec<Vec<u64>> {
        std::mem::take(&mut self.sent.lock().expect("no panic"))
    }
}

impl Carrier for Recording {
    type Job = Number;
    type Answer = Result<u64, &'static str>;

    fn rules(&self) -> Rules {
        Rules {
            operations: 64,
            bytes: 1000,
            largest: 100,
            duplicates: Duplicates::Wait,
            stalled_after: Duration::from_millis(100),
        }
    }

    fn window(&self, _jobs: usize) -> usize {
        1
    }

    fn most_in_flight(&self) -> usize {
        self.most
    }

    fn is_answer(&self, answer: &Self::Answer) -> bool {
        answer.is_ok()
    }

    async fn send_alone(&self, job: Number) -> Self::Answer {
        self.send(vec![job.0]).await;
        if job.0 == REFUSED { Err("refused") } else { Ok(job.0) }
    }

    async fn send_together(&self, jobs: &[Number]) -> Vec<Verdict<Self::Answer>> {
        self.send(jobs.iter().map(|job| job.0).collect()).await;
        let refused = jobs.iter().any(|job| job.0 == REFUSED);
        let verdict = |job: &Number| match job.0 {
            REFUSED => Verdict::Answer(Err("refused")),
            _ if refused => Verdict::Again,
            number => Verdict::Answer(Ok(number)),
        };
        jobs.iter().map(verdict).collect()
    }

    fn not_sent(&self) -> Self::Answer {
        Err("not sent")
    }

    fn unanswered(&self) -> Self::Answer {
        Err("unanswered")
    }
}

/// A server that takes one request at a time.
fn batcher() -> Batcher<Recording> {
    to_server_with_room_for(1)
}

fn to_server_with_room_for(most: usize) -> Batcher<Recording> {
    Batcher::new(Recording { sent: Mutex::default(), most })
}

#[tokio::test(start_paused = true)]
async fn a_lone_operation_is_sent_at_once_by_its_caller() {
    let batcher = batcher();
    let mut lone = Box::pin(batcher.submit(Number(1)));
    assert!(poll!(&mut lone).is_pending());
    assert_eq!(batcher.carrier().sent(), [[1]]);
    assert_eq!(lone.await, Ok(1));
}

#[tokio::test(start_paused = true)]
async fn what_waits_travels_together_and_each_gets_its_own_answer() {
    let batcher = batcher();
    let answers = join_all((0..10).map(|number| batcher.submit(Number(number)))).await;
    assert_eq!(answers, (0..10).map(Ok).collect::<Vec<_>>());
    assert_eq!(batcher.carrier().sent(), [vec![0], (1..10).collect()]);
}

#[tokio::test(start_paused = true)]
async fn a_large_operation_does_not_wait() {
    let batcher = batcher();
    let answers = join_all([0, 1, u64::MAX].map(|number| batcher.submit(Number(number)))).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(batcher.carrier().sent(), [vec![0], vec![u64::MAX], vec![1]]);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_gives_up_half_way_hands_over() {
    let batcher = batcher();
    let mut first = Box::pin(batcher.submit(Number(LOST)));
    assert!(poll!(&mut first).is_pending());
    let mut others: Vec<_> = (1..4).map(|number| Box::pin(batcher.submit(Number(number)))).collect();
    for other in &mut others {
        assert!(poll!(other).is_pending());
    }
    let began = Instant::now();
    drop(first);
    // One of those that wait gives up as well, and is left out.
    drop(others.remove(0));
    assert_eq!(join_all(others).await, [Ok(2), Ok(3)]);
    assert_eq!(began.elapsed(), ROUND_TRIP, "nobody waited for a guard");
    assert_eq!(batcher.carrier().sent(), [vec![LOST], vec![2, 3]]);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_stalls_lets_others_go() {
    let batcher = batcher();
    let mut stalled = Box::pin(batcher.submit(Number(LOST)));
    assert!(poll!(&mut stalled).is_pending());
    let began = Instant::now();
    let answers = join_all((1..100).map(|number| batcher.submit(Number(number)))).await;
    assert!(answers.iter().all(Result::is_ok));
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert!(poll!(&mut stalled).is_pending());
}

#[tokio::test(start_paused = true)]
async fn an_operation_waits_as_long_as_its_caller_does() {
    let batcher = batcher();
    // Every request stalls, and the guard lets one more through at a time.
    let stalled = (0..1000).map(|_| batcher.submit(Number(LOST)));
    let answers = tokio::time::timeout(Duration::from_secs(60), join_all(stalled)).await;
    assert!(answers.is_err(), "the queue answers none of them itself");
    let sent: usize = batcher.carrier().sent().iter().map(Vec::len).sum();
    assert_eq!(sent, 1000);
}

#[tokio::test(start_paused = true)]
async fn a_refused_operation_leaves_the_others() {
    let batcher = batcher();
    let answers = join_all([0, 1, REFUSED, 3].map(|number| batcher.submit(Number(number)))).await;
    assert_eq!(answers, [Ok(0), Ok(1), Err("refused"), Ok(3)]);
    assert_eq!(batcher.carrier().sent(), [vec![0], vec![1, REFUSED, 3], vec![1, 3]]);
}

#[test]
fn what_waits_for_a_runtime_that_ends_is_answered() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let (first, second) = (runtime(), runtime());
    let batcher = batcher();
    let sending = batcher.clone();
    first.spawn(async move { sending.submit(Number(LOST)).await });
    let waiting = batcher.clone();
    let mut waiting = Box::pin(async move { waiting.submit(Number(1)).await });
    first.block_on(async {
        tokio::task::yield_now().await;
        assert!(poll!(&mut waiting).is_pending());
    });
    drop(first);
    assert_eq!(second.block_on(waiting), Err("not sent"));
    assert_eq!(second.block_on(batcher.submit(Number(2))), Ok(2), "another runtime goes on");
    assert_eq!(batcher.carrier().sent(), [[LOST], [2]]);
}

#[test]
fn what_travels_when_its_runtime_ends_has_an_unknown_outcome() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let (first, second) = (runtime(), runtime());
    let batcher = batcher();
    let mut together: Vec<_> = [0, LOST, 2]
        .map(|number| {
            let batcher = batcher.clone();
            Box::pin(async move { batcher.submit(Number(number)).await })
        })
        .into();
    first.block_on(async {
        for one in &mut together {
            assert!(poll!(one).is_pending());
        }
        assert_eq!(together.remove(0).await, Ok(0));
        while batcher.carrier().sent.lock().expect("no panic").len() < 2 {
            tokio::task::yield_now().await;
        }
    });
    drop(first);
    assert_eq!(second.block_on(join_all(together)), [Err("unanswered"), Err("unanswered")]);
}

#[tokio::test(start_paused = true)]
async fn far_away_a_burst_leaves_at_once_in_few_requests() {
    let batcher = to_server_with_room_for(usize::MAX);
    for _pause in 0..2 {
        let began = Instant::now();
        let answers = join_all((0..500).map(|number| batcher.submit(Number(number)))).await;
        assert_eq!(answers, (0..500).map(Ok).collect::<Vec<_>>());
        assert_eq!(began.elapsed(), ROUND_TRIP, "nobody waited for another's answer");
        assert_eq!(batcher.carrier().sent().len(), 9, "one alone, and full batches");
        sleep(Duration::from_secs(60)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn far_away_callers_are_served_in_turn_and_one_that_gives_up_is_not_sent() {
    let batcher = to_server_with_room_for(2);
    let mut all: Vec<_> = (0..300).map(|number| Box::pin(batcher.submit(Number(number)))).collect();
    for one in &mut all {
        assert!(poll!(one).is_pending());
    }
    let left: Vec<_> = all.into_iter().enumerate().filter_map(|(at, one)| (at % 2 == 0).then_some(one)).collect();
    assert!(join_all(left).await.iter().all(Result::is_ok));
    let sent = batcher.carrier().sent().concat();
    assert_eq!(sent, (0..300).step_by(2).collect::<Vec<_>>());
}
