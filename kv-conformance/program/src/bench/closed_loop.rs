//! The closed loop: callers that each wait for one answer before the next call, a warm-up, and a histogram for each
//! caller.

use std::future::Future;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::task::{JoinSet, yield_now};

/// Why a call failed, in the words of its client.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// How a call ended: with its duration, if that is not the time until it returned, or with a failure.
pub type Answer = Result<Option<Duration>, Failure>;

/// A caller of a [`measure`]d load, which repeats the same call.
pub trait Caller: Send + 'static {
    /// Makes one call and waits for its answer.
    fn call(&mut self) -> impl Future<Output = Answer> + Send;
}

/// The load on a store, and its duration.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The number of callers, each with at most one call in flight.
    pub callers: usize,
    /// The duration of the warm-up, which does not count.
    pub warm_up: Duration,
    /// The duration of the measurement.
    pub measured: Duration,
    /// Each caller makes so many calls instead, which all count; the times above do not matter then.
    pub calls: Option<u32>,
    /// How many calls a caller makes from one look at the clock to the next.
    ///
    /// Use more than 1 for calls that take no longer than reading the clock. Then the latencies are averages, and
    /// durations that the calls return are ignored.
    pub burst: u32,
}

impl Default for Plan {
    /// One caller, one second of warm-up, and five seconds of measurement.
    fn default() -> Self {
        Self { callers: 1, warm_up: Duration::from_secs(1), measured: Duration::from_secs(5), calls: None, burst: 1 }
    }
}

/// The result of one run.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Answered calls per second.
    pub rate: f64,
    /// From the beginning of the first call to the end of the last one, warm-up included.
    pub span: Duration,
    /// How many calls failed.
    pub failed: u64,
    /// The error of the first failed call.
    pub failure: Option<String>,
    /// The latencies in nanoseconds.
    latencies: Histogram<u32>,
}

impl Sample {
    fn new() -> Self {
        Self { rate: 0.0, span: Duration::ZERO, failed: 0, failure: None, latencies: histogram() }
    }

    /// One that was measured elsewhere: calls that took so long together, how many failed, and why the first one did.
    pub fn elsewhere(span: Duration, failed: u64, failure: Option<String>) -> Self {
        Self { span, failed, failure, ..Self::new() }
    }

    /// The latency at a quantile from 0 to 1, such as 0.5 for the median.
    pub fn latency(&self, quantile: f64) -> Duration {
        Duration::from_nanos(self.latencies.value_at_quantile(quantile))
    }

    /// The number of answered calls.
    pub fn answered(&self) -> u64 {
        self.latencies.len()
    }

    /// Counts a burst of calls that took so long together.
    fn note(&mut self, result: Answer, took: Duration, burst: u32) {
        match result {
            Ok(own) => {
                let latency = own.filter(|_| burst == 1).unwrap_or(took / burst);
                // A histogram that resizes itself takes any value.
                let _ = self.latencies.record_n(nanoseconds(latency), burst);
            }
            Err(failure) => {
                self.failed += 1;
                self.failure.get_or_insert_with(|| failure.to_string());
            }
        }
    }

    fn add(&mut self, other: Self) {
        self.rate += other.rate;
        self.failed += other.failed;
        self.failure = self.failure.take().or(other.failure);
        let _ = self.latencies.add(other.latencies);
    }
}

/// A histogram with a precision of a hundredth, from a nanosecond up. With a higher precision, the histograms of many
/// callers would not fit into a cache.
fn histogram() -> Histogram<u32> {
    let mut histogram = Histogram::new_with_bounds(1, 1_000_000_000, 2).expect("valid bounds");
    histogram.auto(true);
    histogram
}

/// Runs a load. `caller` creates each of the planned callers from its number.
///
/// Calls that begin within the measured time count. A call that fails is counted separately, and the caller goes on.
///
/// # Panics
/// If a caller panics, or outside a Tokio runtime with a timer.
pub async fn measure<C: Caller>(plan: &Plan, caller: impl FnMut(usize) -> C) -> Sample {
    let callers: Vec<C> = (0..plan.callers).map(caller).collect();
    let began = Instant::now();
    let from = began + plan.warm_up;
    let mut running = JoinSet::new();
    for caller in callers {
        match plan.calls {
            Some(calls) => running.spawn(run_calls(caller, calls)),
            None => running.spawn(run(caller, from, from + plan.measured, plan.burst.max(1))),
        };
    }
    let mut sample = Sample::new();
    for one in running.join_all().await {
        sample.add(one);
    }
    sample.span = began.elapsed();
    sample
}

async fn run_calls(mut caller: impl Caller, calls: u32) -> Sample {
    let mut sample = Sample::new();
    let first = Instant::now();
    for _ in 0..calls {
        let began = Instant::now();
        sample.note(caller.call().await, began.elapsed(), 1);
    }
    sample.rate = number(sample.latencies.len()) / first.elapsed().as_secs_f64();
    sample
}

async fn run(mut caller: impl Caller, from: Instant, until: Instant, burst: u32) -> Sample {
    let mut sample = Sample::new();
    let mut first = None;
    let mut now = Instant::now();
    while now < until {
        let began = now;
        let result = several(&mut caller, burst).await;
        now = Instant::now();
        if began < from {
            continue;
        }
        first.get_or_insert(began);
        sample.note(result, now - began, burst);
    }
    let span = first.map_or(Duration::ZERO, |first| now - first);
    if !span.is_zero() {
        sample.rate = number(sample.latencies.len()) / span.as_secs_f64();
    }
    sample
}

async fn several(caller: &mut impl Caller, burst: u32) -> Answer {
    if burst == 1 {
        return caller.call().await;
    }
    for _ in 0..burst {
        caller.call().await?;
    }
    // Without this, a call that is ready at once would let no other caller of this thread run.
    yield_now().await;
    Ok(None)
}

#[expect(clippy::cast_precision_loss, reason = "no run has so many calls that a float loses digits")]
fn number(calls: u64) -> f64 {
    calls as f64
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    struct Counts {
        calls: Arc<AtomicU64>,
        own: Option<Duration>,
    }

    impl Caller for Counts {
        async fn call(&mut self) -> Answer {
            let call = self.calls.fetch_add(1, Ordering::Relaxed);
            yield_now().await;
            if call % 10 == 9 { Err("every tenth".into()) } else { Ok(self.own) }
        }
    }

    async fn counted(plan: &Plan, own: Option<Duration>) -> (Sample, u64) {
        let calls = Arc::new(AtomicU64::new(0));
        let sample = measure(plan, |_| Counts { calls: Arc::clone(&calls), own }).await;
        (sample, calls.load(Ordering::Relaxed))
    }

    #[tokio::test]
    async fn every_call_counts_once_and_failures_count_apart() {
        let plan = Plan { callers: 3, warm_up: Duration::ZERO, measured: Duration::from_millis(50), ..Plan::default() };
        let (sample, calls) = counted(&plan, None).await;
        assert_eq!(sample.answered() + sample.failed, calls);
        assert_eq!(sample.failed, calls / 10);
        assert_eq!(sample.failure.as_deref(), Some("every tenth"));
        assert!(sample.rate > 0.0 && sample.latency(0.5) <= sample.latency(1.0));
    }

    #[tokio::test]
    async fn each_caller_makes_as_many_calls_as_it_is_told() {
        let plan = Plan { callers: 3, calls: Some(20), ..Plan::default() };
        let (sample, calls) = counted(&plan, None).await;
        assert_eq!((calls, sample.answered(), sample.failed), (60, 54, 6));
        assert!(sample.span > Duration::ZERO && sample.rate > 0.0);
    }

    #[tokio::test]
    async fn the_warm_up_does_not_count() {
        let plan = Plan { warm_up: Duration::from_millis(50), measured: Duration::ZERO, ..Plan::default() };
        let (sample, calls) = counted(&plan, None).await;
        assert!(calls > 0);
        assert_eq!((sample.answered(), sample.failed), (0, 0));
    }

    #[tokio::test]
    async fn a_call_may_know_better_how_long_it_took() {
        let plan = Plan { warm_up: Duration::ZERO, measured: Duration::from_millis(20), ..Plan::default() };
        let (sample, _) = counted(&plan, Some(Duration::from_secs(100))).await;
        // The precision of the histogram is a hundredth.
        assert!(sample.latency(0.5) >= Duration::from_secs(98), "{:?}", sample.latency(0.5));
    }
}
