//! The outcomes as tables, with the conditions of the measurement.

use std::fmt::Write as _;
use std::time::Duration;

use kv_conformance_program::bench::Spread;

use crate::contest::{Figure, Outcome};

/// Every outcome of a run.
pub(crate) struct Report {
    pub(crate) outcomes: Vec<Outcome>,
    /// The conditions of the measurement: what, when, and on which machine.
    pub(crate) about: String,
}

impl Report {
    pub(crate) fn new(outcomes: Vec<Outcome>, rounds: usize, measured: Duration, servers: &[(&str, String)]) -> Self {
        let about = about(&format!("{rounds} rounds of {} ms", measured.as_millis()), servers);
        Self { outcomes, about }
    }

    /// All outcomes.
    pub(crate) fn table(&self) -> String {
        let mut table = String::from(
            "| store | call | callers | beside | this project | the peer | ratio | from .. to | 99th percentile, ratio | target |\n\
             |---|---|--:|---|--:|--:|--:|--:|--:|--:|\n",
        );
        for outcome in &self.outcomes {
            let Spread { least, median, most } = outcome.ratio();
            let _ = writeln!(
                table,
                "| {} | {} | {} | {} | {} | {} | **{median:.2}** | {least:.2} .. {most:.2} | {:.2} | {} |",
                outcome.store,
                outcome.call,
                outcome.callers,
                outcome.peer,
                figure(outcome, &outcome.ours),
                figure(outcome, &outcome.theirs),
                outcome.tail().median,
                target(outcome),
            );
        }
        let _ = writeln!(table, "\n{}.", self.about);
        table
    }
}

/// What was measured, when, and on what.
pub(crate) fn about(rounds: &str, servers: &[(&str, String)]) -> String {
    let mut versions: Vec<String> = servers.iter().map(|(store, version)| format!("{store} {version}")).collect();
    versions.extend(client_versions());
    format!(
        "{}; values of 128 bytes, 10,000 keys; {rounds}; {}, servers on the same machine; {}",
        date(),
        machine(),
        versions.join(", "),
    )
}

/// An outcome on one line, for who waits for the end of the run.
pub(crate) fn line(outcome: &Outcome) -> String {
    let Spread { least, median, most } = outcome.ratio();
    format!(
        "{:<7} {:<17} {:>3}  {:<20} {:>12} {:>12}  {median:>5.2} ({least:.2} .. {most:.2})  p99 {:.2}  {}",
        outcome.store,
        outcome.call,
        outcome.callers,
        outcome.peer,
        figure(outcome, &outcome.ours),
        figure(outcome, &outcome.theirs),
        outcome.tail().median,
        target(outcome),
    )
}

fn figure(outcome: &Outcome, summary: &kv_conformance_program::bench::Summary) -> String {
    match outcome.figure {
        Figure::Rate => format!("{}/s", thousands(summary.rate().median)),
        Figure::Latency => format!("{:.2} ms", summary.latency(0.5).as_secs_f64() * 1e3),
    }
}

fn target(outcome: &Outcome) -> String {
    let (Some(target), Some(met)) = (outcome.target, outcome.met()) else { return String::new() };
    let sign = if outcome.figure == Figure::Rate { "≥" } else { "≤" };
    format!("{sign} {target}{}", if met { "" } else { ", missed" })
}

/// A whole number with commas.
fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let read = |file| std::fs::read_to_string(file).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
    };
    let memory = field(&read("/proc/meminfo"), "MemTotal");
    let memory = memory.and_then(|text| text.trim_end_matches(" kB").parse::<f64>().ok());
    let processor = field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let memory = memory.map_or_else(String::new, |kilobytes| format!(", {:.0} GiB", kilobytes / f64::from(1 << 20)));
    format!("{cores} cores ({processor}){memory}")
}

/// The versions of the crates that are peers, as they were built.
fn client_versions() -> impl Iterator<Item = String> {
    let locked = include_str!("../Cargo.lock");
    ["etcd-client", "tonic", "rs-consul", "reqwest", "dashmap", "opendal"].into_iter().filter_map(move |name| {
        let (_, rest) = locked.split_once(&format!("name = \"{name}\"\nversion = \""))?;
        Some(format!("{name} {}", rest.split('"').next()?))
    })
}

/// Today's date, such as 2026-01-31.
fn date() -> String {
    let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    // Howard Hinnant's days-to-date, with years that begin in March.
    let days = seconds / 86_400 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month) = (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let year = era * 400 + year + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02}")
}
