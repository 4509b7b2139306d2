//! Runs the suite on the stores at some addresses, and prints or writes the table of stores and clauses.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use futures_util::StreamExt as _;
use indicatif::{ProgressBar, ProgressStyle};
use kv_conformance::{AddressFixture, CASES, Case, Column, Fixture, Suite, Table, Verdict, write_between_marks};
use kv_core::Registry;

use super::fail;
use super::start::start;

/// Which stores to run which cases on, and how.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The stores, such as `etcd://127.0.0.1:2379` or `memory://suite`: a column of the table each.
    #[arg(value_name = "ADDRESS", required_unless_present = "start")]
    addresses: Vec<String>,
    /// Starts a server of its own in Docker and tests it, faults included: `etcd` or `consul`, with an image as in
    /// `etcd=kv-etcd:3.4.23` if it is not to be the usual one; may be given more than once.
    #[arg(long, value_name = "STORE[=IMAGE]")]
    start: Vec<String>,
    /// Starts this many members of each store; with three or more, the cases that hurt a cluster are run.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    members: usize,
    /// Runs only the cases whose names contain this text, or that are about the clause of this name.
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Writes the table to this file instead of printing it; in a file that has them, between the lines
    /// `<!-- clauses -->` and `<!-- /clauses -->`.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Has the cases that are random try this many times over.
    #[arg(long, value_name = "TIMES", default_value_t = 1)]
    effort: u32,
    /// Runs this many cases at a time; they mostly wait.
    #[arg(long, value_name = "NUMBER", default_value_t = 16)]
    jobs: usize,
}

/// Runs the selected cases on every store, one after the other.
pub(crate) async fn run(arguments: Arguments) -> ExitCode {
    let cases: Vec<&'static Case> = CASES.iter().filter(|case| arguments.selects(case)).collect();
    if cases.is_empty() {
        return fail("no case has that in its name, and no clause is called that");
    }
    let mut columns = Vec::new();
    for address in &arguments.addresses {
        let started = AddressFixture::new(Registry::linked(), address).await;
        let started = started.map(|fixture| fixture.with_effort(arguments.effort));
        match arguments.run(started, &cases).await {
            Ok(column) => columns.push(column),
            // Not the address itself, which may hold a password.
            Err(error) => return fail(format_args!("store {} cannot be tested: {error}", columns.len() + 1)),
        }
    }
    for store in &arguments.start {
        let started = start(store, arguments.members).await;
        let started = started.map(|fixture| fixture.with_effort(arguments.effort));
        match arguments.run(started, &cases).await {
            Ok(column) => columns.push(column),
            Err(error) => return fail(format_args!("{store} cannot be tested: {error}")),
        }
    }
    let table = Table(&columns).to_string();
    match &arguments.markdown {
        None => print!("{table}"),
        Some(file) => {
            if let Err(error) = write_between_marks(file, "clauses", &table) {
                return fail(format_args!("{} cannot be written: {error}", file.display()));
            }
        }
    }
    if columns.iter().any(|column| column.failures().next().is_some()) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

impl Arguments {
    fn selects(&self, case: &Case) -> bool {
        let matches = |text: &String| case.name.contains(text) || case.clauses.contains(&&**text);
        self.filter.as_ref().is_none_or(matches)
    }

    async fn run(&self, fixture: Result<impl Fixture, String>, cases: &[&'static Case]) -> Result<Column, String> {
        let suite = &Suite::new(fixture?).await?;
        let mut column = Column::new(suite);
        let progress = Progress::new(&column.name, cases.len());
        let began = Instant::now();
        let running = futures_util::stream::iter(cases).map(|case| async move { (*case, suite.run(case).await) });
        let mut running = running.buffer_unordered(self.jobs.max(1));
        let (mut passed, mut failed, mut not_run) = (0, 0, 0);
        while let Some((case, verdict)) = running.next().await {
            match &verdict {
                Verdict::Passed(_) => passed += 1,
                Verdict::Failed(_) => failed += 1,
                Verdict::NotRun(_) => not_run += 1,
            }
            progress.tell(case, &verdict);
            column.enter(case, verdict);
        }
        let seconds = began.elapsed().as_secs_f64();
        progress
            .end(&format!("{}: {passed} passed, {failed} failed, {not_run} not run, in {seconds:.1} s", column.name));
        Ok(column)
    }
}

/// A bar on a terminal, and a line for each case elsewhere; failures and summaries are told in full on both.
struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    fn new(store: &str, cases: usize) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(cases as u64).with_prefix(store.to_owned());
            match ProgressStyle::with_template("{prefix} [{bar:40}] {pos}/{len} {msg}") {
                Ok(style) => bar.with_style(style),
                Err(_) => bar,
            }
        });
        Self { bar }
    }

    fn tell(&self, case: &Case, verdict: &Verdict) {
        let line = match verdict {
            Verdict::Passed(None) => format!("ok      {}", case.name),
            Verdict::Passed(Some(summary)) => format!("ok      {}: {summary}", case.name),
            Verdict::NotRun(need) => format!("not run {}: {need}", case.name),
            Verdict::Failed(report) => format!("FAILED  {}: {}\n{report}", case.name, case.sentence),
        };
        match &self.bar {
            None => eprintln!("{line}"),
            Some(bar) => {
                if matches!(verdict, Verdict::Failed(_) | Verdict::Passed(Some(_))) {
                    bar.println(line);
                }
                bar.set_message(case.name);
                bar.inc(1);
            }
        }
    }

    fn end(&self, summary: &str) {
        match &self.bar {
            None => eprintln!("{summary}"),
            Some(bar) => {
                bar.println(summary);
                bar.finish_and_clear();
            }
        }
    }
}
