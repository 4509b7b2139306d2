//! Measures how fast the store at an address answers under load.

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use kv_conformance_program::bench::callers::{Get, HandOver, List, Notice, Set, Transaction, Update};
use kv_conformance_program::bench::{Keys, Plan, Sample, Summary, measure};
use kv_core::{Kv, Result};
use serde_json::json;

use super::{fail, seconds};

/// Measures how fast a store answers callers that each wait for one answer before the next call.
///
/// The keys are in a directory of their own, which is removed afterwards.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The store, such as `etcd://127.0.0.1:2379`.
    #[arg(value_name = "ADDRESS")]
    address: String,
    /// The calls to measure, with a row for each call and number of callers.
    #[arg(long, value_delimiter = ',', value_name = "CALL", default_values_t = [Call::Get, Call::Set, Call::Update])]
    call: Vec<Call>,
    /// The numbers of concurrent callers.
    #[arg(long, value_delimiter = ',', value_name = "CALLERS", default_values_t = [1, 16, 128])]
    concurrency: Vec<usize>,
    /// The size of each value.
    #[arg(long, value_name = "BYTES", default_value_t = 128)]
    value_size: usize,
    /// The number of keys.
    #[arg(long, value_name = "NUMBER", default_value_t = 10_000)]
    keys: usize,
    /// How long each run takes, without its warm-up.
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = seconds)]
    duration: Duration,
    /// The warm-up of each run, which does not count.
    #[arg(long, value_name = "SECONDS", default_value = "0.5", value_parser = seconds)]
    warm_up: Duration,
    /// How many times each row runs; the table shows medians.
    #[arg(long, value_name = "TIMES", default_value_t = 3)]
    repeats: u32,
    /// Prints JSON instead of a table: rates in calls per second, latencies in microseconds.
    #[arg(long)]
    json: bool,
}

/// The call that a caller repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Call {
    /// Read a key.
    Get,
    /// Write a key.
    Set,
    /// Write a key if no other caller has written it meanwhile.
    Update,
    /// Write three keys in one transaction.
    Txn,
    /// Read all keys at once.
    List,
    /// From before a key is written until a watch has the event.
    Watch,
    /// From before a lock is freed until another caller has it.
    Lock,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_possible_value().expect("no value is hidden").get_name())
    }
}

/// Measures the store. An interrupt ends it early; the keys are removed in any case.
pub(crate) async fn run(arguments: Arguments) -> ExitCode {
    if arguments.concurrency.contains(&0) || arguments.keys == 0 || arguments.repeats == 0 {
        return fail("at least one caller, one key and one run are needed");
    }
    let kv = match kv_core::connect(&arguments.address).await {
        Ok(kv) => kv,
        Err(error) => return fail(format_args!("the store cannot be measured: {error}")),
    };
    let directory = format!("kv-bench-{:016x}/", RandomState::new().hash_one(0));
    let load = match kv.scoped(&directory) {
        Ok(kv) => Load { kv, keys: Keys::new(arguments.keys), value: vec![b'v'; arguments.value_size].into() },
        Err(error) => return fail(error),
    };
    let measured = tokio::select! {
        measured = measure_all(&arguments, &load) => measured.map(|()| ExitCode::SUCCESS),
        _ = tokio::signal::ctrl_c() => Ok(fail("interrupted")),
    };
    if let Err(error) = kv.delete_tree(&directory).await {
        return fail(format_args!("the keys in {directory} could not be removed: {error}"));
    }
    measured.unwrap_or_else(|error| fail(format_args!("the store cannot be measured: {error}")))
}

async fn measure_all(arguments: &Arguments, load: &Load) -> Result<()> {
    load.keys.fill(&load.kv, &load.value).await?;
    let progress = Progress::new(arguments);
    if !arguments.json {
        println!("{:<8} {:>7} {}", "call", "callers", Summary::header());
    }
    let mut rows = Vec::new();
    for call in &arguments.call {
        for callers in &arguments.concurrency {
            let (warm_up, measured) = (arguments.warm_up, arguments.duration);
            let plan = Plan { callers: *callers, warm_up, measured, ..Plan::default() };
            let mut samples = Vec::new();
            for _ in 0..arguments.repeats {
                progress.at(*call, *callers);
                samples.push(load.run(*call, &plan).await?);
                progress.bar.inc(1);
            }
            let summary = Summary::new(samples);
            if let (failed @ 1.., Some(failure)) = summary.failed() {
                progress.bar.suspend(|| eprintln!("{failed} calls failed, the first one with: {failure}"));
            }
            if arguments.json {
                rows.push(json!({ "call": call.to_string(), "callers": callers, "measured": summary.json() }));
            } else {
                progress.bar.suspend(|| println!("{:<8} {callers:>7} {summary}", call.to_string()));
            }
        }
    }
    progress.bar.finish_and_clear();
    if arguments.json {
        let all = json!({
            "store": load.kv.backend_name(),
            "keys": arguments.keys,
            "value_size": arguments.value_size,
            "seconds": arguments.duration.as_secs_f64(),
            "rows": rows,
        });
        println!("{all:#}");
    }
    Ok(())
}

/// The keys and values of a measurement.
struct Load {
    kv: Kv,
    keys: Keys,
    value: Bytes,
}

impl Load {
    async fn run(&self, call: Call, plan: &Plan) -> Result<Sample> {
        let Self { kv, keys, value } = self;
        let own = |caller| keys.of(caller, plan.callers);
        Ok(match call {
            Call::Get => measure(plan, |caller| Get::new(kv, own(caller))).await,
            Call::Set => measure(plan, |caller| Set::new(kv, own(caller), value)).await,
            Call::Update => {
                let indices = Update::indices(kv, keys).await?;
                measure(plan, |caller| Update::new(kv, own(caller), value, &indices)).await
            }
            Call::Txn => measure(plan, |caller| Transaction::new(kv, own(caller), value)).await,
            Call::List => measure(plan, |_| List::new(kv, keys)).await,
            Call::Watch => {
                let mut watching = Vec::new();
                for caller in 0..plan.callers {
                    watching.push(Notice::new(kv, caller, value).await?);
                }
                let mut watching = watching.into_iter();
                measure(plan, |_| watching.next().expect("one for each caller")).await
            }
            Call::Lock => {
                let freed = Arc::default();
                measure(plan, |_| HandOver::new(kv, &freed)).await
            }
        })
    }
}

/// A progress bar on a terminal, else nothing.
struct Progress {
    bar: ProgressBar,
}

impl Progress {
    fn new(arguments: &Arguments) -> Self {
        let rows = arguments.call.len() * arguments.concurrency.len();
        let runs = rows as u64 * u64::from(arguments.repeats);
        let bar = if std::io::stderr().is_terminal() { ProgressBar::new(runs) } else { ProgressBar::hidden() };
        let style = ProgressStyle::with_template("[{bar:40}] {pos}/{len} {msg}, {eta} left");
        Self { bar: style.map_or_else(|_| bar.clone(), |style| bar.clone().with_style(style)) }
    }

    fn at(&self, call: Call, callers: usize) {
        self.bar.set_message(format!("{call} by {callers}"));
        self.bar.tick();
    }
}
