//! Workloads that run while faults are injected into the store.
//!
//! A run starts all workloads and waits until every client is served. It injects the fault, waits until every client is
//! served again (with the fault in force, if a majority of the members is left), heals the fault, waits once more, and
//! ends. Then it judges what the clients did and saw from their [`Recording`]. A run whose fault affected no client
//! proves nothing, and fails.
//!
//! ```text
//! cargo run --bin kv-conformance -- --start etcd --start consul --members 3 --effort 5
//! ```
//! This runs all cases on three members of each store, and every run of workloads five times, with 10,000 clients that
//! come and go and a soak of 50 seconds. `--filter clusters`, `--filter faults` or `--filter load` runs a part.
//! `cargo test` runs each once. Each run ends with a summary: the answers of each workload's clients, the longest wait
//! of a client for an answer before and after the fault began, what was recorded, and which workloads the fault
//! affected. A history that breaks a clause is written to a file, which the case names. `cargo run --bin kv-conformance
//! -- judge FILE` judges it again.
//!
//! # The workloads
//! | workload | clients | judgement |
//! |---|---|---|
//! | registers | 12 read, set, update, remove and delete single keys, four clients per key | linearizable: one order of the operations explains every answer; an operation of unknown fate takes effect at any later time, or never |
//! | bank | four transfer between five accounts in transactions, two read all accounts | the total is the same in every listing |
//! | writers, observers | three set and delete keys, alone and in transactions; three observe from the beginning, six start at random moments | no event is late, repeated, wrong or out of order; listing and events add up to the final state; every acknowledged change is delivered where the store promises it |
//! | lock | four increment a counter under a lock's guard; some pause beyond their time to live | guarded writes, ordered by index, have increasing tokens, and no increment is lost. A second counter is incremented without the guard: its lost increments are counted and reported, because no lock can prevent them |
//! | busy | eight read and write keys of their own through one handle, during planned operations | no call fails that more patience would have spared |
//! | members | four register, renew, and are destroyed or die | no key vanishes or is lost while its last renewal lasts, and the keys of all that die vanish |
//!
//! Clients share three connections, like the tasks of a service, so that concurrent calls travel together. Each
//! observer has a connection of its own.
//!
//! # Results
//! All workloads run under each fault. The numbers are the longest wait of any client of a run for an answer, on a
//! machine with two cores, with three members of etcd 3.5.30 and Consul 1.8.7.
//!
//! | fault | etcd | Consul | clients |
//! |---|---|---|---|
//! | none (`in_peace`) | holds, 0.2 s | holds, 0.3 s | know every member |
//! | the leader is killed | holds, 5.1 s | holds, 5.0 s | know every member |
//! | the member they use is killed | holds, 0.3 s | holds, 0.4 s | all start with that member |
//! | every member is restarted in turn | holds, 0.6 to 5.2 s | holds, 2.3 s | know every member |
//! | the leader is paused for ten seconds | holds, 10.2 s (an idle watch; calls 5.4 s) | holds, 12.6 s (calls 9.7 s) | know every member |
//! | the leader is isolated from its peers | holds, 5.4 s | holds, 9.6 s | know every member |
//! | the member they use is isolated | holds, 5.2 s | holds, 7.7 s (calls 5.0 s) | all start with that member |
//! | history is compacted while the observers' member is down | holds: each watch ends with `Compacted` | keeps no history | observers know that member only |
//! | 500 connections are cut, truncated, stalled or delayed | holds, 1.1 s | holds, 0.8 s | go through a proxy |
//!
//! The request timeout is five seconds. A call in flight at a leader that dies gets no answer, and its fate is
//! [`Indeterminate`](kv_core::Error::Indeterminate).
//!
//! These runs found faults that the backends now avoid:
//! - etcd answers a transaction that has conditions only from the member's own state, so the answer of a check could be
//!   stale (`isTxnSerializable`, in etcd since its pull request 4956; seen on 3.5.30 while members were restarted).
//!   kv-etcd adds a read to such a transaction, which makes the member catch up first.
//! - A client of kv-etcd that connected during an election gave up, although the next leader was a second away.
//! - Consul's leader answers a renewal from the entries that it has applied so far. A leader elected a moment ago may
//!   therefore deny that a session exists (seen on 1.8.7 while members were restarted). kv-consul asks for the session
//!   with a consistent read before it gives up a lease.
//! - Writes of kv-etcd and kv-consul that queued behind two requests to a dying leader timed out with them.
//!
//! Such runs may meet known faults of servers: etcd's 20418 (stale reads of a paused member, before 3.5.28), 19179 (an
//! event missing at the revision of a compaction, before 3.5.18) and 20221 (watches from a future revision, before
//! 3.5.22). No run has met one.
//!
//! [`Recording`]: crate::judge::Recording

mod cuts;
pub mod distance;
mod link;
mod majority;
mod nemesis;
mod progress;
pub mod proxy;
mod stage;
mod storm;
mod tally;
mod workload;

use std::fmt::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kv_core::{Kv, MemberLeave};

use crate::context::Context;
use crate::judge::{Recording, Watches};
use crate::outcome::{Broke, Outcome};

pub(crate) use cuts::Cuts;
pub(crate) use link::{Link, State as Line};
pub(crate) use nemesis::{Fault, Nemesis};
pub(crate) use storm::{Calm, Storm};

use majority::Majority;
use progress::Progress;
use stage::Stage;
use storm::Role;
use tally::{Failure, Tally};
use workload::{bank, busy, ephemeral, lock, register, watch};

/// Runs all workloads under a new storm, this many times.
pub(crate) async fn weather<S: Storm, F: Future<Output = Outcome<S>> + Send>(
    cx: &Context,
    rounds: u32,
    storm: impl Fn() -> F + Send + Sync,
) -> Outcome {
    let mut told = String::new();
    for round in 0..rounds {
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
    busy: Tally,
}

impl Tallies {
    fn new(busy: usize) -> Self {
        Self {
            registers: Tally::new("registers", register::CLIENTS),
            bank: Tally::new("bank", bank::CLIENTS),
            writers: Tally::new("writers", watch::WRITERS),
            observers: Tally::new("observers", watch::OBSERVERS),
            lock: Tally::new("lock", 1),
            members: Tally::new("members", ephemeral::MEMBERS),
            busy: Tally::new("busy", busy),
        }
    }

    fn all(&self) -> [&Tally; 7] {
        let Self { registers, bank, writers, observers, lock, members, busy } = self;
        [registers, bank, writers, observers, lock, members, busy]
    }
}

async fn run<S: Storm>(cx: &Context, storm: Arc<S>, round: u32) -> Outcome<Summary> {
    let began = Instant::now();
    let stage = Stage::new(cx, storm.clone(), round);
    let busy = if storm.is_planned() { busy::TASKS } else { 0 };
    let tallies = Tallies::new(busy);
    let majority = Majority::default();
    let ran = tokio::select! {
        ran = conduct(cx, &*storm, &stage, &tallies) => ran,
        () = majority.watch(cx), if storm.is_planned() => unreachable!("it goes on until it is dropped"),
    };
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
        if let Some(directory) = cx.fixture().histories() {
            broke.what = format!("{}\n{}", broke.what, keep(&recording, &directory));
        }
        return Err(broke);
    }
    let bitten: Vec<_> = tallies.all().into_iter().filter(|tally| tally.bitten()).map(|tally| tally.workload).collect();
    if storm.must_bite() && bitten.is_empty() {
        let what = format!("the fault affected no client, so that nothing is proved:\n{}", told("no effect"));
        return Err(Broke { clause: None, what });
    }
    let mut spared = String::new();
    if storm.is_planned() {
        spared = judge_failures(&tallies, &majority).inspect_err(|_| cx.note(told("callers were not spared")))?;
    }
    let events: usize = recording.watches.observations.iter().map(|one| one.events.len()).sum();
    Ok(told(&format!(
        "holds: {} register operations, {} audits, {} changes and {events} events in {} observations, {} critical \
         sections ({lost_unguarded} unguarded increments lost), {} lives; affected: {}{spared}",
        recording.registers.len(),
        recording.bank.audits.len(),
        recording.watches.changes.len(),
        recording.watches.observations.len(),
        recording.sections.len(),
        recording.lives.len(),
        if bitten.is_empty() { "none".to_owned() } else { bitten.join(", ") },
    )))
}

/// Requires that no call failed which certainly did nothing, while there was a majority and time to make it again.
/// Returns what the store's own outages were.
fn judge_failures(tallies: &Tallies, majority: &Majority) -> Outcome<String> {
    const TOLD: usize = 3;
    let (mut told, mut excused) = (String::new(), 0);
    for tally in tallies.all() {
        let failures = tally.failures();
        let owed = |failure: &&Failure| majority.owed(failure.began, failure.ended, Kv::DEFAULT_TIMEOUT);
        let owed: Vec<_> = failures.iter().filter(owed).collect();
        excused += failures.len() - owed.len();
        if owed.is_empty() {
            continue;
        }
        let _ = write!(told, "\n  {} of {}, such as", owed.len(), tally.workload);
        for failure in owed.iter().take(TOLD) {
            let _ = write!(told, " {:?} (after {:?})", failure.said, failure.ended - failure.began);
        }
    }
    let (outages, longest) = majority.outages();
    let outages =
        format!("; {outages} times no member served, for {longest:?} at most, and {excused} calls had no more time");
    if told.is_empty() {
        Ok(outages)
    } else {
        Err(Broke::new("S5", format!("calls failed during planned work{outages}:{told}")))
    }
}

/// Writes a history to a file and returns how to judge it again.
fn keep(recording: &Recording, directory: &Path) -> String {
    let file = directory.join(format!("{}.json", crate::names::unique_name()));
    match recording.keep(&file) {
        Ok(()) => format!("the history is kept: `cargo run --bin kv-conformance -- judge {}`", file.display()),
        Err(error) => format!("the history could not be kept: {error}"),
    }
}

/// Starts the workloads, injects the storm's fault, ends the workloads, and returns what they recorded.
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
            busy::run(stage.clone(), tallies.busy.clone(), storm.is_planned()),
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
    let (((registers, bank, changes, lock, lives, ()), last), observations, ()) =
        tokio::try_join!(working, observing, striking)?;
    // How long a lease lasts that may end with its member is judged by a case of its own.
    let ends_early = storm.has_members_leave() && cx.limits().member_leave == MemberLeave::EndsLeases;
    let leases = if ends_early { ephemeral::Lives::default() } else { lives };
    let recording = Recording {
        about: String::new(),
        registers,
        bank,
        watches: Watches { changes, last, completeness: cx.limits().watch_history.into(), observations },
        sections: lock.sections,
        counter: lock.counter,
        lives: leases.lives,
        vanishings: leases.vanishings,
    };
    Ok((recording, lock.lost_unguarded))
}

/// The summary of one run.
struct Summary {
    about: String,
    took: Duration,
    /// One line for each workload.
    workloads: String,
    verdict: String,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { about, took, workloads, verdict } = self;
        write!(f, "{about} ({:.1} s){workloads}\n  {verdict}", took.as_secs_f64())
    }
}
