//! Runs cases on a fixture and reports the result of each.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kv_core::{Limits, WatchHistory, contract};
use tokio::sync::RwLock;

use crate::case::Case;
use crate::context::Context;
use crate::fixture::{Fixture, is_remote};
use crate::log::Log;
use crate::names::{since_epoch, unique_name};
use crate::need::Need;
use crate::outcome::Broke;

/// A fixture with a directory in its store where cases run.
///
/// Cases may run concurrently. A case with faults waits until no other case runs.
pub struct Suite {
    fixture: Arc<dyn Fixture>,
    directory: String,
    limits: Limits,
    seed: u64,
    alone: RwLock<()>,
    took: Mutex<Vec<(&'static str, Duration)>>,
}

/// The result of a case.
#[derive(Debug)]
pub enum Verdict {
    /// The case's clauses hold. Some cases add a summary of the run.
    Passed(Option<String>),
    /// A clause is broken.
    Failed(Report),
    /// The case did not run: the fixture lacks this.
    NotRun(Need),
}

/// A broken clause, with the log of the case.
#[derive(Debug)]
pub struct Report {
    /// The broken clause.
    pub clause: &'static str,
    /// What was expected and what was observed.
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
    /// The environment variable that sets the seed of everything random, to repeat a run.
    pub const SEED: &'static str = "KV_CONFORMANCE_SEED";

    /// Prepares to run cases on a fixture.
    ///
    /// # Errors
    /// The reason why the store cannot be tested.
    pub async fn new(fixture: impl Fixture) -> Result<Self, String> {
        let fixture: Arc<dyn Fixture> = Arc::new(fixture);
        let limits = fixture.connect().await.map_err(|error| error.to_string())?.limits();
        let seed = match std::env::var(Self::SEED) {
            Ok(text) => text.parse().map_err(|_| format!("{} is not a whole number", Self::SEED))?,
            Err(_) => since_epoch().subsec_nanos().into(),
        };
        Ok(Self { fixture, directory: unique_name(), limits, seed, alone: RwLock::default(), took: Mutex::default() })
    }

    /// The fixture's name.
    pub fn name(&self) -> String {
        self.fixture.name()
    }

    /// Returns what the case needs and this fixture lacks, if anything.
    pub fn lacks(&self, case: &Case) -> Option<Need> {
        let has = |need: &Need| match need {
            Need::Address => self.fixture.address().is_some(),
            Need::Server => self.fixture.address().is_some_and(|(registry, address)| is_remote(&registry, &address)),
            Need::Environment => self.fixture.address().is_some() && self.fixture.environment().is_some(),
            Need::EveryChange => self.limits.watch_history == WatchHistory::Every,
            Need::SmallLimits => self.limits.txn_ops <= 4096 && self.limits.value_bytes <= 8 << 20,
            Need::SmallTransactions => {
                // A case fills the limit with values of half the allowed size, so that one more byte exceeds it.
                let Limits { txn_bytes, txn_ops, value_bytes, .. } = self.limits;
                txn_bytes <= 8 << 20 && txn_bytes / (value_bytes / 2).max(1) < txn_ops
            }
            Need::Alone => true,
            Need::Faults => self.fixture.faults().is_some(),
            Need::Cluster => self.fixture.faults().is_some_and(|faults| faults.endpoints().len() >= 3),
            Need::LeaderTransfer | Need::Defragmentation | Need::Leaving | Need::ReplacedHistory => {
                self.fixture.faults().is_some_and(|faults| faults.offers(*need))
            }
            Need::Upgrade => self.fixture.faults().is_some_and(|faults| faults.upgrades() > 0),
        };
        case.needs.iter().copied().find(|need| !has(need))
    }

    /// Runs one case in a directory of its own and removes the directory afterwards.
    pub async fn run(&self, case: &Case) -> Verdict {
        if let Some(need) = self.lacks(case) {
            return Verdict::NotRun(need);
        }
        let hurts = case.needs.iter().any(|need| matches!(need, Need::Alone | Need::Faults | Need::Cluster));
        let (_shared, _alone) =
            if hurts { (None, Some(self.alone.write().await)) } else { (Some(self.alone.read().await), None) };
        let began = Instant::now();
        let log = Log::new();
        let directory = format!("{}/{}", self.directory, case.name.replace("::", "/"));
        let context = Context::new(self.fixture.clone(), directory.clone(), log.clone(), self.limits, self.seed);
        let limit = limit(&context);
        // In a task of its own, so that a panic is reported like any other failure.
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
        self.took.lock().unwrap_or_else(PoisonError::into_inner).push((case.name, began.elapsed()));
        match outcome {
            Ok(()) => Verdict::Passed(context.summary()),
            Err(Broke { clause, what }) => {
                let clause = clause.unwrap_or(case.clauses[0]);
                Verdict::Failed(Report { clause, what, log, seed: self.seed })
            }
        }
    }

    /// The cases that took longest, slowest first, at most `most` of them. The time that a case waited for other cases
    /// does not count.
    pub fn slowest(&self, most: usize) -> Vec<(&'static str, Duration)> {
        let mut took = self.took.lock().unwrap_or_else(PoisonError::into_inner).clone();
        took.sort_by_key(|(_, time)| std::cmp::Reverse(*time));
        took.truncate(most);
        took
    }

    /// Removes what the case wrote. Best effort: a failure to do so says nothing about the case.
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

/// Far longer than any case takes, unless it hangs.
fn limit(context: &Context) -> Duration {
    (context.expiry() + context.patience()) * 4 * context.effort()
}
