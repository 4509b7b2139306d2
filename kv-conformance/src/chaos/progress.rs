//! Waits until the clients of workloads make progress.

use super::tally::Tally;
use crate::context::Context;
use crate::outcome::Outcome;

/// How often each client must be served to count as making progress.
const TIMES: usize = 3;

/// The workloads of a run, as seen by the fault injection.
pub(crate) struct Progress<'a> {
    pub(crate) cx: &'a Context,
    pub(crate) tallies: &'a [&'a Tally],
}

impl Progress<'_> {
    /// Waits until every client of every workload was served a few more times. Otherwise
    /// [A6](kv_core::contract::CLAUSES#A6) is broken.
    pub(crate) async fn everyone(&self, when: &str) -> Outcome {
        self.of(when, |_| true).await
    }

    /// Like [`everyone`](Self::everyone), for some workloads only.
    pub(crate) async fn of(&self, when: &str, counts: impl Fn(&Tally) -> bool + Send + Sync) -> Outcome {
        let tallies: Vec<&Tally> = self.tallies.iter().copied().filter(|tally| counts(tally)).collect();
        for tally in &tallies {
            tally.mark();
        }
        let behind = || tallies.iter().map(|tally| (tally.workload, tally.behind(TIMES)));
        let all = || async { Ok(behind().all(|(_, clients)| clients.is_empty()).then_some(())) };
        self.cx.until("A6", &format!("every client is served {when}"), all).await.map_err(|mut broke| {
            let late: Vec<_> = behind().filter(|(_, clients)| !clients.is_empty()).collect();
            broke.what = format!("{}; still waiting: {late:?}", broke.what);
            broke
        })
    }
}
