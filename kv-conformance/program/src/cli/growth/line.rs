//! One line of the table: the times at each size, and the exponent of the growth.

use std::fmt;
use std::time::Duration;

/// The cost of one operation of one store.
pub(super) struct Line {
    store: &'static str,
    operation: &'static str,
    unit: &'static str,
    times: Vec<(u32, Option<Duration>)>,
}

impl Line {
    pub(super) const HEADER: &'static str = "| store | operation | time at each size | exponent |\n|---|---|---|---|";

    pub(super) fn new(store: &'static str, operation: &'static str, unit: &'static str) -> Self {
        Self { store, operation, unit, times: Vec::new() }
    }

    /// Adds a measured time; `None` if the measurement failed.
    pub(super) fn add(&mut self, size: u32, time: Option<Duration>) {
        self.times.push((size, time));
    }

    /// The exponent: the slope of the best straight line through the times on logarithmic axes.
    fn exponent(&self) -> Option<f64> {
        let points: Vec<(f64, f64)> = self
            .times
            .iter()
            .filter_map(|(size, time)| Some((f64::from(*size).ln(), (*time)?.as_secs_f64().ln())))
            .collect();
        let sum = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>();
        let mean = |of| sum(of) / sum(|_| 1.0);
        let (middle, height) = (mean(|point| point.0), mean(|point| point.1));
        let spread: f64 = points.iter().map(|(x, _)| (x - middle).powi(2)).sum();
        let rise: f64 = points.iter().map(|(x, y)| (x - middle) * (y - height)).sum();
        (spread > 0.0).then(|| rise / spread)
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "| {} | {} | ", self.store, self.operation)?;
        for (number, (size, time)) in self.times.iter().enumerate() {
            let separator = if number == 0 { "" } else { ", " };
            write!(f, "{separator}{size}: ")?;
            match time {
                Some(time) => f.write_str(&three_digits(*time))?,
                None => f.write_str("-")?,
            }
        }
        write!(f, " ({}) | ", self.unit)?;
        match self.exponent() {
            // A minus sign before a zero is noise.
            Some(exponent) => write!(f, "{:.2} |", if exponent.abs() < 0.005 { 0.0 } else { exponent }),
            None => f.write_str("- |"),
        }
    }
}

/// A time to three significant digits.
fn three_digits(time: Duration) -> String {
    let nanos = time.as_secs_f64() * 1e9;
    let (number, unit) = match nanos {
        ..1e3 => (nanos, "ns"),
        ..1e6 => (nanos / 1e3, "µs"),
        ..1e9 => (nanos / 1e6, "ms"),
        _ => (nanos / 1e9, "s"),
    };
    let decimals = match number {
        ..10.0 => 2,
        ..100.0 => 1,
        _ => 0,
    };
    format!("{number:.decimals$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(times: &[(u32, Option<u64>)]) -> Line {
        let mut line = Line::new("memory", "get_all", "keys");
        for (size, micros) in times {
            line.add(*size, micros.map(Duration::from_micros));
        }
        line
    }

    #[test]
    fn the_exponent_is_that_of_the_growth() {
        let exponent = |times: &[_]| line(times).exponent().expect("two sizes");
        assert!((exponent(&[(1, Some(7)), (100, Some(7))])).abs() < 1e-9);
        assert!((exponent(&[(10, Some(30)), (100, Some(300)), (1000, Some(3000))]) - 1.0).abs() < 1e-9);
        assert!((exponent(&[(10, Some(5)), (100, None), (1000, Some(50_000))]) - 2.0).abs() < 1e-9);
        assert!(line(&[(10, Some(5)), (100, None)]).exponent().is_none());
    }

    #[test]
    fn times_have_three_digits() {
        let text = |nanos| three_digits(Duration::from_nanos(nanos));
        assert_eq!([7, 205, 13_153, 220_754_000].map(text), ["7.00 ns", "205 ns", "13.2 µs", "221 ms"]);
        assert_eq!(text(12_300_000_000), "12.3 s");
    }

    #[test]
    fn what_was_not_measured_has_a_dash() {
        let text = line(&[(1, Some(1)), (10, Some(10)), (100, None)]).to_string();
        assert_eq!(text, "| memory | get_all | 1: 1.00 µs, 10: 10.0 µs, 100: - (keys) | 1.00 |");
    }
}
