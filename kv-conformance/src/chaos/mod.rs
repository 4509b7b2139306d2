//! Workloads that go on while the store is being hurt, and what is told of it.
//!
//! A run lets six workloads work at the same time, waits until every client is served, hurts the store, waits until
//! every client is served again (with the fault in force, where a majority is left), heals it, waits once more, and
//! ends. What the clients did and saw is then judged from their [`Recording`](crate::judge::Recording); a run whose fault nobody has felt
//! proves nothing, and fails.

mod cuts;
mod nemesis;
mod progress;
pub mod proxy;
mod stage;
mod storm;
mod tally;
mod workload;

use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::case::{Broke, Outcome};
use crate::context::Context;
use crate::judge::Recording;

pub(crate) use cuts::Cuts;
pub(crate) use nemesis::{Fault, Nemesis};
pub(crate) use storm::{Calm, Storm};

use progress::Progress;
use stage::Stage;
use storm::Role;
use tally::Tally;
use workload::{bank, ephemeral, lock, register, watch};

/// Runs all workloads through a storm, as often as the effort says; each time a new one.
pub(crate) async fn weather<S: Storm, F: Future<Output = Outcome<S>> + Send>(
    cx: &Context,
    storm: impl Fn() -> F + Send + Sync,
) -> Outcome {
    let mut told = String::new();
    for round in 0..cx.effort() {
        let storm = Arc::new(storm().await?);
        let summary = run(cx, storm, round).await?;
        let _ = writeln!(told, "{summary}");
    }
    cx.summarize(told);
    Ok(())
}

/// The workloads' tallies.
struct Tallies {
    registers: Tally,
    bank: Tally,
    writers: Tally,
    observers: Tally,
    lock: Tally,
    members: Tally,
}

impl Tallies {
    fn new() -> Self {
        Self {
            registers: Tally::new("registers", register::CLIENTS),
            bank: Tally::new("bank", bank::CLIENTS),
            writers: Tally::new("writers", watch::WRITERS),
            observers: Tally::new("observers", watch::OBSERVERS),
            lock: Tally::new("lock", 1),
            members: Tally::new("members", ephemeral::MEMBERS),
        }
    }

    fn all(&self) -> [&Tally; 6] {
        let Self { registers, bank, writers, observers, lock, members } = self;
        [registers, bank, writers, observers, lock, members]
    }
}

async fn run<S: Storm>(cx: &Context, storm: Arc<S>, round: u32) -> Outcome<Summary> {
    let began = Instant::now();
    let stage = Stage::new(cx, storm.clone(), round);
    let tallies = Tallies::new();
    let ran = conduct(cx, &*storm, &stage, &tallies).await;
    if ran.is_err() {
        storm.mend(cx).await;
    }
    let about = format!("{}, seed {}, round {round}: {}", cx.fixture().name(), cx.seed(), storm.about());
    let told = |verdict: &str| {
        let mut workloads = String::new();
        for tally in tallies.all() {
            let _ = write!(workloads, "\n  {tally}");
        }
        Summary { about: about.clone(), took: began.elapsed(), workloads, verdict: verdict.to_owned() }
    };
    let (recording, lost_unguarded) = match ran {
        Ok((recording, lost)) => (Recording { about: about.clone(), ..recording }, lost),
        Err(broke) => {
            cx.note(told("ended early"));
            return Err(broke);
        }
    };
    if let Err(mut broke) = recording.judge() {
        cx.note(told("broken"));
        let file = std::env::temp_dir().join(format!("{}.json", crate::suite::unique_name()));
        let kept = match recording.keep(&file) {
            Ok(()) => format!("the history is kept: `cargo run -p kv-conformance -- judge {}`", file.display()),
            Err(error) => format!("the history could not be kept: {error}"),
        };
        broke.what = format!("{}\n{kept}", broke.what);
        return Err(broke);
    }
    let bitten: Vec<_> = tallies.all().into_iter().filter(|tally| tally.bitten()).map(|tally| tally.workload).collect();
    if storm.must_bite() && bitten.is_empty() {
        let what = format!("nobody has felt the fault, so that nothing is proved:\n{}", told("no effect"));
        return Err(Broke { clause: None, what });
    }
    let events: usize = recording.watches.observations.iter().map(|one| one.events.len()).sum();
    Ok(told(&format!(
        "holds: {} register operations, {} audits, {} changes and {events} events in {} observations, {} critical \
         sections ({lost_unguarded} unguarded increments lost), {} lives; felt by {}",
        recording.registers.len(),
        recording.bank.audits.len(),
        recording.watches.changes.len(),
        recording.watches.observations.len(),
        recording.sections.len(),
        recording.lives.len(),
        if bitten.is_empty() { "nobody".to_owned() } else { bitten.join(", ") },
    )))
}

/// Starts the workloads, has the storm strike, ends them, and gives what they recorded.
async fn conduct<S: Storm>(cx: &Context, storm: &S, stage: &Stage, tallies: &Tallies) -> Outcome<(Recording, u64)> {
    let (sender, end) = tokio::sync::watch::channel(None);
    let observing = watch::observers(stage.clone(), tallies.observers.clone(), end);
    let working = async {
        tokio::try_join!(
            register::run(stage.clone(), tallies.registers.clone()),
            bank::run(stage.clone(), tallies.bank.clone()),
            watch::writers(stage.clone(), tallies.writers.clone()),
            lock::run(stage.clone(), tallies.lock.clone()),
            ephemeral::run(stage.clone(), tallies.members.clone()),
        )
    };
    let working = async {
        let worked = working.await?;
        let kv = stage.connect_in_the_end(Role::Client, 0).await?;
        let (index, last) = watch::finish(stage, &kv).await?;
        sender.send_replace(Some(index));
        Outcome::Ok((worked, last))
    };
    let striking = async {
        let progress = Progress { cx, tallies: &tallies.all() };
        progress.everyone("before the fault").await?;
        for tally in tallies.all() {
            tally.strike();
        }
        stage.set_calm(false);
        storm.strike(cx, &progress).await?;
        stage.set_calm(true);
        progress.everyone("after the fault").await?;
        for tally in tallies.all() {
            tally.end();
        }
        stage.end();
        Ok(())
    };
    let (((registers, bank, changes, lock, lives), last), observations, ()) =
        tokio::try_join!(working, observing, striking)?;
    let recording = Recording {
        about: String::new(),
        registers,
        bank,
        watches: watch::recorded(stage, changes, last, observations),
        sections: lock.sections,
        counter: lock.counter,
        lives: lives.lives,
        vanishings: lives.vanishings,
    };
    Ok((recording, lock.lost_unguarded))
}

/// What is told of one run.
struct Summary {
    about: String,
    took: Duration,
    /// A line for each.
    workloads: String,
    verdict: String,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { about, took, workloads, verdict } = self;
        write!(f, "{about} ({:.1} s){workloads}\n  {verdict}", took.as_secs_f64())
    }
}
