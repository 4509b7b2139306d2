//! The summary of several runs of one load: medians, and the spread of the runs.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use super::Sample;

/// A median with its minimum and maximum.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Spread {
    /// The minimum.
    pub least: f64,
    /// The median.
    pub median: f64,
    /// The maximum.
    pub most: f64,
}

impl Spread {
    /// Returns the spread of some figures; all zero if there are none.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (Some(&least), Some(&most)) = (sorted.first(), sorted.last()) else { return Self::default() };
        let middle = sorted.len() / 2;
        let median =
            if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) };
        Self { least, median, most }
    }
}

/// Several runs of one load.
#[derive(Debug, Clone)]
pub struct Summary {
    samples: Vec<Sample>,
}

impl Summary {
    /// Creates the summary of these runs.
    pub fn new(samples: Vec<Sample>) -> Self {
        Self { samples }
    }

    /// Returns the runs, in order.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// Returns the answered calls per second.
    pub fn rate(&self) -> Spread {
        Spread::of(self.samples.iter().map(|sample| sample.rate))
    }

    /// Returns the median of the runs' latencies at a quantile.
    pub fn latency(&self, quantile: f64) -> Duration {
        let seconds = Spread::of(self.samples.iter().map(|sample| sample.latency(quantile).as_secs_f64()));
        Duration::from_secs_f64(seconds.median)
    }

    /// Returns the number of failed calls and the error of the first one.
    pub fn failed(&self) -> (u64, Option<&str>) {
        let first = self.samples.iter().find_map(|sample| sample.failure.as_deref());
        (self.samples.iter().map(|sample| sample.failed).sum(), first)
    }

    /// Returns the header of a table whose rows are the [`Display`](fmt::Display) of summaries.
    pub fn header() -> String {
        format!(
            "{:>12} {:>23} {:>10} {:>10} {:>10} {:>10} {:>7}",
            "calls/s", "from .. to", "p50", "p99", "p99.9", "most", "failed"
        )
    }

    /// Returns all figures: rates in calls per second, latencies in microseconds.
    pub fn json(&self) -> Value {
        let rate = self.rate();
        let microseconds = |quantile| self.latency(quantile).as_secs_f64() * 1e6;
        let (failed, failure) = self.failed();
        json!({
            "rate": { "least": rate.least, "median": rate.median, "most": rate.most },
            "latency_us": {
                "p50": microseconds(0.5),
                "p90": microseconds(0.9),
                "p99": microseconds(0.99),
                "p99.9": microseconds(0.999),
                "most": microseconds(1.0),
            },
            "answered": self.samples.iter().map(Sample::answered).sum::<u64>(),
            "failed": failed,
            "failure": failure,
            "rates": self.samples.iter().map(|sample| sample.rate).collect::<Vec<f64>>(),
        })
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = self.rate();
        let latency = |quantile| time(self.latency(quantile));
        write!(
            f,
            "{:>12.0} {:>23} {:>10} {:>10} {:>10} {:>10} {:>7}",
            rate.median,
            format!("{:.0} .. {:.0}", rate.least, rate.most),
            latency(0.5),
            latency(0.99),
            latency(0.999),
            latency(1.0),
            self.failed().0
        )
    }
}

/// Formats a latency with about three digits and a unit.
fn time(time: Duration) -> String {
    match time.as_nanos() {
        0..10_000 => format!("{} ns", time.as_nanos()),
        10_000..10_000_000 => format!("{:.0} us", time.as_secs_f64() * 1e6),
        _ => format!("{:.1} ms", time.as_secs_f64() * 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_in_the_middle() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Spread { least: 1.0, median: 2.0, most: 3.0 });
        assert_eq!(Spread::of([4.0, 1.0]), Spread { least: 1.0, median: 2.5, most: 4.0 });
        assert_eq!(Spread::of([]), Spread::default());
    }

    #[test]
    fn times_are_short() {
        assert_eq!(time(Duration::from_nanos(260)), "260 ns");
        assert_eq!(time(Duration::from_micros(260)), "260 us");
        assert_eq!(time(Duration::from_millis(26)), "26.0 ms");
    }
}
