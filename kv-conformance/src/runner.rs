//! The main function of a backend's test target.

use std::fmt::Display;
use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::cases::CASES;
use crate::fixture::Fixture;
use crate::suite::{Suite, Verdict};

/// Runs every case on the fixture that `start` returns, each as a test of its own, with the arguments of `cargo test`.
///
/// If there is no fixture the run fails and prints the reason. The fixture is dropped before this returns.
///
/// ```no_run
/// use kv_conformance::AddressFixture;
/// use kv_core::Registry;
///
/// fn main() -> std::process::ExitCode {
///     kv_conformance::run(AddressFixture::new(Registry::linked(), "memory://suite"))
/// }
/// ```
pub fn run<F: Fixture, E: Display>(start: impl Future<Output = Result<F, E>>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Cases mostly wait, so more of them run at a time than there are processors.
    arguments.test_threads.get_or_insert(16);
    if arguments.list {
        let trials = CASES.iter().map(|case| Trial::test(case.name, || Ok(()))).collect();
        return libtest_mimic::run(&arguments, trials).exit_code();
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => Arc::new(runtime),
        Err(error) => return cannot_run(&error),
    };
    let starting = async { Suite::new(start.await.map_err(|error| error.to_string())?).await };
    let suite = match runtime.block_on(starting) {
        Ok(suite) => Arc::new(suite),
        Err(error) => return cannot_run(&error),
    };
    let trial = |case: &'static crate::Case| {
        let (runtime, suite) = (runtime.clone(), suite.clone());
        Trial::ignorable_test(case.name, move || match runtime.block_on(suite.run(case)) {
            Verdict::Passed(summary) => {
                if let Some(summary) = summary {
                    eprintln!("{}: {summary}", case.name);
                }
                Ok(Completion::Completed)
            }
            Verdict::NotRun(need) => Ok(Completion::ignored_with(need)),
            Verdict::Failed(report) => Err(Failed::from(report)),
        })
    };
    let conclusion = libtest_mimic::run(&arguments, CASES.iter().map(trial).collect());
    let slowest: Vec<_> =
        suite.slowest(10).iter().map(|(name, time)| format!("{name} {:.1} s", time.as_secs_f64())).collect();
    eprintln!("the slowest cases: {}\n", slowest.join(", "));
    // Within the runtime, because a fixture may have servers to stop. The runtime itself is never dropped: tasks that
    // cases left behind must not see it shut down half way.
    runtime.block_on(async move { drop(suite) });
    std::mem::forget(runtime);
    conclusion.exit_code()
}

fn cannot_run(error: &dyn Display) -> ExitCode {
    eprintln!("the suite cannot run: {error}");
    ExitCode::FAILURE
}
