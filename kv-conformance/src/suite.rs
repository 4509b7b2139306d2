//! Runs cases on a fixture, and tells what came of each.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kv_core::{Limits, WatchHistory, contract};
use tokio::sync::RwLock;

use crate::case::{Broke, Case, Need};
use crate::context::Context;
use crate::fixture::{Fixture, is_remote};
use crate::log::Log;

/// A fixture with a directory in its store, in which cases run.
///
/// Cases may run at the same time, but for those with faults: they wait until they are alone.
pub struct Suite {
    fixture: Arc<dyn Fixture>,
    directory: String,
    limits: Limits,
    seed: u64,
    alone: RwLock<()>,
}

/// What came of a case.
#[derive(Debug)]
pub enum Verdict {
    /// Its clauses hold; what there is to tell of the run, if the case has more to say than that.
    Passed(Option<String>),
    /// A clause is broken.
    Failed(Report),
    /// It was not run: the fixture has not what it needs.
    NotRun(Need),
}

/// A broken clause, with what the case did and saw.
#[derive(Debug)]
pub struct Report {
    /// The clause that is broken.
    pub clause: &'static str,
    /// What was expected, and what came instead.
    pub what: String,
    log: Log,
    seed: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sentence = contract::sentence(self.clause).unwrap_or("an unknown clause");
        writeln!(f, "broke {} - {sentence}", self.clause)?;
        writeln!(f, "{}", self.what)?;
        writeln!(f, "what was done and seen, in order (seed {}):", self.seed)?;
        write!(f, "{}", self.log)
    }
}

impl Suite {
    /// The variable that fixes the seed of whatever is random, to repeat a run.
    pub const SEED: &'static str = "KV_CONFORMANCE_SEED";

    /// Prepares to run cases on a fixture.
    ///
    /// # Errors
    /// Why the store cannot be tested.
    pub async fn new(fixture: impl Fixture) -> Result<Self, String> {
        let fixture: Arc<dyn Fixture> = Arc::new(fixture);
        let limits = fixture.connect().await.map_err(|error| error.to_string())?.limits();
        let seed = match std::env::var(Self::SEED) {
            Ok(text) => text.parse().map_err(|_| format!("{} is not a whole number", Self::SEED))?,
            Err(_) => since_epoch().subsec_nanos().into(),
        };
        Ok(Self { fixture, directory: unique_name(), limits, seed, alone: RwLock::default() })
    }

    /// The fixture's name.
    pub fn name(&self) -> String {
        self.fixture.name()
    }

    /// What a case needs and this fixture has not, if anything.
    pub fn lacks(&self, case: &Case) -> Option<Need> {
        let has = |need: &Need| match need {
            Need::Address => self.fixture.address().is_some(),
            Need::Server => self.fixture.address().is_some_and(|(registry, address)| is_remote(&registry, &address)),
            Need::Environment => self.fixture.address().is_some() && self.fixture.environment().is_some(),
            Need::EveryChange => self.limits.watch_history == WatchHistory::Every,
            Need::SmallLimits => self.limits.txn_ops <= 4096 && self.limits.value_bytes <= 8 << 20,
            Need::SmallTransactions => {
                // Reached by values of half the size that is allowed, of which one more is then a matter of bytes.
                let Limits { txn_bytes, txn_ops, value_bytes, .. } = self.limits;
                txn_bytes <= 8 << 20 && txn_bytes / (value_bytes / 2).max(1) < txn_ops
            }
            Need::Faults => self.fixture.faults().is_some(),
            Need::Cluster => self.fixture.faults().is_some_and(|faults| faults.endpoints().len() >= 3),
            Need::LeaderTransfer | Need::Defragmentation | Need::Leaving => {
                self.fixture.faults().is_some_and(|faults| faults.offers(*need))
            }
            Need::Upgrade => self.fixture.faults().is_some_and(|faults| faults.upgrades() > 0),
        };
        case.needs.iter().copied().find(|need| !has(need))
    }

    /// Runs one case, in a directory of its own that is removed afterwards.
    pub async fn run(&self, case: &Case) -> Verdict {
        if let Some(need) = self.lacks(case) {
            return Verdict::NotRun(need);
        }
        let hurts = case.needs.iter().any(|need| matches!(need, Need::Faults | Need::Cluster));
        let (_shared, _alone) =
            if hurts { (None, Some(self.alone.write().await)) } else { (Some(self.alone.read().await), None) };
        let log = Log::new();
        let directory = format!("{}/{}", self.directory, case.name.replace("::", "/"));
        let context = Context::new(self.fixture.clone(), directory.clone(), log.clone(), self.limits, self.seed);
        let limit = limit(&context);
        // A task of its own, so that a panic is told like any other failure.
        let mut running = tokio::spawn((case.run)(context.clone()));
        let outcome = match tokio::time::timeout(limit, &mut running).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(panic)) => Err(Broke { clause: None, what: panic.to_string() }),
            Err(_elapsed) => {
                running.abort();
                let _aborted = running.await;
                Err(Broke { clause: None, what: format!("the case did not end within {limit:?}") })
            }
        };
        self.clean(&directory).await;
        match outcome {
            Ok(()) => Verdict::Passed(context.summary()),
            Err(Broke { clause, what }) => {
                let clause = clause.unwrap_or(case.clauses[0]);
                Verdict::Failed(Report { clause, what, log, seed: self.seed })
            }
        }
    }

    /// Leaves the store as it was; what cannot be removed now is no case's fault.
    async fn clean(&self, directory: &str) {
        if let Ok(kv) = self.fixture.connect().await {
            let _ = kv.delete_tree(directory).await;
        }
    }
}

impl fmt::Debug for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Suite").field("fixture", &self.name()).field("seed", &self.seed).finish_non_exhaustive()
    }
}

/// A name that no other run uses, in this process or another.
pub(crate) fn unique_name() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("conformance-{:x}-{:x}-{count}", since_epoch().as_nanos(), std::process::id())
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Far more than any case takes that does not hang.
fn limit(context: &Context) -> Duration {
    (context.expiry() + context.patience()) * 4 * context.effort()
}
