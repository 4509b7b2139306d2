//! Tests of the suite itself: on a store with one fault it must fail and name the broken clause.

mod closing;
mod commit;
mod fault;
mod home;
mod known_locks;
mod late;
mod lease;
mod locks;
mod remote;
mod replaced;
mod shared;
mod sharing;
mod store;
mod stream;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use fault::{FAULTS, Fault};
use futures_util::StreamExt as _;
use kv_conformance::{AddressFixture, CASES, Fixture, Suite, Verdict};
use kv_core::backend::{Address, Backend};
use kv_core::{Error, Kv, Limits, Registration, Registry};
use kv_memory::MemoryBackend;
use libtest_mimic::{Arguments, Failed, Trial};
use replaced::{Replacement, WRONG};
use shared::Shared;
use store::Faulty;

/// A memory store whose clients all have the same fault.
struct FaultyFixture {
    fault: Option<Fault>,
    shared: Arc<Shared>,
}

#[async_trait]
impl Fixture for FaultyFixture {
    fn name(&self) -> String {
        format!("{:?}", self.fault)
    }

    async fn connect(&self) -> kv_core::Result<Kv> {
        let kv = Kv::new(Arc::new(Faulty::new(self.fault, self.shared.clone())));
        // Where nothing may go wrong, a busy machine has all the time.
        Ok(if self.fault.is_none() { kv.with_timeout(self.patience()) } else { kv })
    }

    fn ttl(&self, _: &Limits) -> Duration {
        // The time to live is long, so that even a busy machine sees a lease end before its time.
        Duration::from_millis(if self.fault == Some(Fault::ExpiresEarly) { 5000 } else { 500 })
    }

    fn histories(&self) -> Option<PathBuf> {
        None
    }

    fn patience(&self) -> Duration {
        // With a fault, cases wait in vain, so the wait is short. Without one it is generous, because no case may fail.
        Duration::from_secs(if self.fault.is_some() { 3 } else { 60 })
    }
}

/// Runs every case and returns the broken clauses.
async fn broken(suite: Suite) -> (BTreeSet<&'static str>, String) {
    let suite = &suite;
    let verdicts = futures_util::stream::iter(CASES).map(|case| async move { (case.name, suite.run(case).await) });
    let verdicts: Vec<_> = verdicts.buffer_unordered(48).collect().await;
    let mut clauses = BTreeSet::new();
    let mut reports = Vec::new();
    for (name, verdict) in verdicts {
        if let Verdict::Failed(report) = verdict {
            clauses.insert(report.clause);
            reports.push(format!("{name} {report}"));
        }
    }
    (clauses, reports.join("\n"))
}

async fn judge(fault: Option<Fault>, expected: Option<&'static str>) -> Result<(), Failed> {
    let shared = Arc::new(Shared::default());
    let (clauses, reports) = broken(Suite::new(FaultyFixture { fault, shared }).await?).await;
    match expected {
        Some(clause) if clauses.contains(clause) => Ok(()),
        None if clauses.is_empty() => Ok(()),
        Some(clause) => Err(format!("{clause} should be broken, but these are: {clauses:?}\n{reports}").into()),
        None => Err(format!("this store has no fault, but the suite found:\n{reports}").into()),
    }
}

/// A backend that shows passwords and tokens.
const TELLTALE: Registration = Registration {
    name: "telltale",
    schemes: &["telltale"],
    parameters: &["token"],
    named: false,
    generic_http: false,
    connect: |address| Box::pin(std::future::ready(tell(&address))),
};

fn tell(address: &Address) -> kv_core::Result<Arc<dyn Backend>> {
    static STORE: LazyLock<MemoryBackend> = LazyLock::new(MemoryBackend::new);
    match (&address.credentials, address.parameter("token")) {
        (Some(credentials), _) => Err(Error::unavailable(format!("{} is no password", credentials.password))),
        (None, Some(token)) => Err(Error::permission_denied(format!("{token} is no token"))),
        (None, None) => Ok(Arc::new(STORE.clone())),
    }
}

async fn judge_telltale() -> Result<(), Failed> {
    let fixture = AddressFixture::new(Registry::new().with(TELLTALE), "telltale://").await?;
    let (clauses, reports) = broken(Suite::new(fixture).await?).await;
    if clauses == BTreeSet::from(["A4"]) { Ok(()) } else { Err(format!("{clauses:?} are broken:\n{reports}").into()) }
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // The cases mostly wait.
    arguments.test_threads.get_or_insert(16);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => Arc::new(runtime),
        Err(error) => {
            eprintln!("no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut trials = Vec::new();
    let with = runtime.clone();
    trials.push(Trial::test("a store without a fault passes", move || with.block_on(judge(None, None))));
    let with = runtime.clone();
    trials.push(Trial::test("a store that shows secrets breaks A4", move || with.block_on(judge_telltale())));
    let with = runtime.clone();
    let told = move || with.block_on(replaced::judge(Replacement::Told));
    trials.push(Trial::test("a store that says that it was replaced passes", told));
    for (replacement, sentence) in WRONG {
        let with = runtime.clone();
        trials.push(Trial::test(format!("{sentence} breaks E8"), move || with.block_on(replaced::judge(replacement))));
    }
    for (fault, clause, sentence) in FAULTS {
        let with = runtime.clone();
        let name = format!("{sentence} breaks {clause}");
        trials.push(Trial::test(name, move || with.block_on(judge(Some(*fault), Some(clause)))));
    }
    for case in remote::cases() {
        let with = runtime.clone();
        let name = format!("members without a fault pass {case}");
        trials.push(Trial::test(name, move || with.block_on(remote::judge(None, None, case))));
    }
    for (fault, clause, case, sentence) in remote::FAULTS {
        let with = runtime.clone();
        let name = format!("{sentence} breaks {clause}");
        trials.push(Trial::test(name, move || with.block_on(remote::judge(Some(*fault), Some(clause), case))));
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    // Faulty stores leave tasks behind, which end with the process.
    std::mem::forget(runtime);
    conclusion.exit_code()
}
