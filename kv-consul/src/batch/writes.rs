//! Writes of single keys that travel together, in one transaction.

use std::sync::Arc;
use std::time::Duration;

use kv_core::backend::batch::{Batcher, Carrier, Duplicates, Job, Rules, Verdict};
use kv_core::backend::call::Call;
use kv_core::backend::{Check, Operation as Write, Txn, fate};
use kv_core::{Error, Result};
use tokio::time::Instant;

use crate::api::transaction::{Outcome, Refused, explain, index_of};
use crate::settings::{OPERATION, TXN_OPS};
use crate::shared::Shared;
use crate::transport::budget::LARGE;
use crate::transport::callers::Callers;

/// How many transactions of queued writes keep a near agent busy.
const IN_FLIGHT: usize = 2;

/// If no transaction starts for this long, one more may. An agent can take seconds to answer a transaction that it
/// forwarded to a leader that died, and the other writes must not wait for that.
const STALL: Duration = Duration::from_millis(100);

/// The queue of one runtime's writes.
pub(crate) type Writes = Batcher<Transactions>;

/// Sends writes in transactions.
pub(crate) struct Transactions {
    pub(crate) shared: Arc<Shared>,
}

/// A write of one key, with no check or a check of the same key.
pub(crate) struct SmallWrite {
    txn: Txn,
    key: String,
    call: Call,
}

impl SmallWrite {
    /// Returns any other transaction unchanged: only writes of one key come in large numbers.
    pub(crate) fn new(txn: Txn, call: &Call) -> Result<Self, Txn> {
        let key = match (&*txn.operations, &*txn.checks) {
            ([Write::Set { key, .. } | Write::Delete { key }], []) => key.clone(),
            ([Write::Set { key, .. } | Write::Delete { key }], [Check::Index { key: checked, .. }])
                if key == checked =>
            {
                key.clone()
            }
            _ => return Err(txn),
        };
        Ok(Self { txn, key, call: call.clone() })
    }

    /// Whether its caller has given up, and was told what was known then. So nothing more may happen to it.
    fn is_late(&self) -> bool {
        self.call.deadline().is_some_and(|deadline| deadline <= Instant::now())
    }
}

impl Job for SmallWrite {
    type Key = String;

    /// A transaction has one index, and each write of a key must have its own ([clause W1](kv_core::contract::CLAUSES#W1)).
    fn unique_key(&self) -> Option<String> {
        Some(self.key.clone())
    }

    /// The bytes that it takes in the transaction's JSON, or more.
    fn bytes(&self) -> usize {
        let value = |write: &Write| if let Write::Set { data, .. } = write { data.len() / 3 * 4 + 4 } else { 0 };
        let values: usize = self.txn.operations.iter().map(value).sum();
        // JSON needs six bytes for some characters.
        self.txn.len() * (6 * self.key.len() + OPERATION) + values
    }

    fn operations(&self) -> usize {
        self.txn.len()
    }
}

impl Carrier for Transactions {
    type Job = SmallWrite;
    type Answer = Result<Option<u64>>;

    fn rules(&self) -> Rules {
        let bytes = self.shared.settings.get().body_limit;
        // Small writes do not travel with large ones, which take long on a slow line.
        Rules {
            operations: TXN_OPS,
            bytes,
            largest: LARGE.min(bytes),
            duplicates: Duplicates::Wait,
            stalled_after: STALL,
        }
    }

    fn window(&self, _jobs: usize) -> usize {
        IN_FLIGHT
    }

    fn most_in_flight(&self) -> usize {
        self.shared.most_in_flight()
    }

    fn is_answer(&self, answer: &Result<Option<u64>>) -> bool {
        matches!(answer, Ok(_) | Err(Error::Conflict { .. }))
    }

    fn queued(&self, job: &SmallWrite) {
        if let Ok(client) = self.shared.client() {
            job.call.asks(client.next_agent());
        }
    }

    async fn send_alone(&self, job: SmallWrite) -> Result<Option<u64>> {
        // Boxed to keep the futures of queued writes small.
        Box::pin(self.shared.commit(&job.txn, &Callers::one(&job.call))).await
    }

    async fn send_together(&self, jobs: &[SmallWrite]) -> Vec<Verdict<Result<Option<u64>>>> {
        let operations: Vec<_> = jobs.iter().flat_map(|job| self.shared.operations(&job.txn)).collect();
        let callers = Callers::together(jobs.iter().map(|job| job.call.clone()).collect());
        match Box::pin(self.shared.transact_for(&callers, &operations)).await {
            Ok(Outcome::Applied(index)) => {
                jobs.iter().map(|job| Verdict::Answer(Ok(index_of(&job.txn, index)))).collect()
            }
            Ok(Outcome::Refused(refused)) => refused_or_again(jobs, refused),
            // Each of them alone may be small enough, or permitted.
            Err(Error::TxnTooLarge { .. } | Error::ValueTooLarge { .. } | Error::PermissionDenied { .. }) => {
                jobs.iter().map(|_| Verdict::Alone).collect()
            }
            // None of them was applied, and the time of one is up. The others go on without it.
            Err(error @ Error::Unavailable { .. }) => {
                let verdict = |job: &SmallWrite| {
                    if job.is_late() { Verdict::Answer(Err(fate::copy(&error))) } else { Verdict::Again }
                };
                jobs.iter().map(verdict).collect()
            }
            Err(error) => jobs.iter().map(|_| Verdict::Answer(Err(fate::copy(&error)))).collect(),
        }
    }

    fn not_sent(&self) -> Result<Option<u64>> {
        Err(Error::unavailable("the write was not sent: the runtime that was to send it has ended"))
    }

    fn unanswered(&self) -> Result<Option<u64>> {
        Err(Error::indeterminate("the runtime that sent the write has ended"))
    }
}

/// Answers the writes that were refused. The others are sent again without them.
fn refused_or_again(jobs: &[SmallWrite], mut refused: Vec<Refused>) -> Vec<Verdict<Result<Option<u64>>>> {
    let mut start = 0;
    let verdict = |job: &SmallWrite| {
        let end = start + job.txn.len();
        let mut own: Vec<Refused> = refused.extract_if(.., |one| (start..end).contains(&one.at)).collect();
        for one in &mut own {
            one.at -= start;
        }
        start = end;
        if own.is_empty() { Verdict::Again } else { Verdict::Answer(Err(explain(&job.txn, &own))) }
    };
    jobs.iter().map(verdict).collect()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::error::Refusal;

    fn set(key: &str) -> Write {
        Write::Set { key: key.to_owned(), data: Bytes::from_static(b"data") }
    }

    fn check(key: &str) -> Check {
        Check::Index { key: key.to_owned(), index: 7 }
    }

    fn small(checks: Vec<Check>, operations: Vec<Write>) -> Result<SmallWrite, Txn> {
        SmallWrite::new(Txn { checks, operations }, &Call::current())
    }

    #[test]
    fn only_writes_of_one_key_travel_together() {
        for checks in [vec![], vec![check("a")]] {
            let job = small(checks, vec![set("a")]).expect("a small write");
            assert_eq!(job.unique_key().as_deref(), Some("a"));
            assert_eq!(job.operations(), job.txn.len());
        }
        let tree = Write::DeletePrefix { prefix: "a/".to_owned() };
        for (checks, operations) in [
            (vec![], vec![set("a"), set("b")]),
            (vec![], vec![tree]),
            (vec![check("b")], vec![set("a")]),
            (vec![check("a"), check("a")], vec![set("a")]),
            (vec![check("a")], vec![]),
        ] {
            assert!(small(checks, operations).is_err());
        }
    }

    #[test]
    fn a_write_that_is_refused_leaves_the_others() {
        let jobs: Vec<_> = [vec![], vec![check("b")], vec![]]
            .into_iter()
            .zip(["a", "b", "c"])
            .map(|(checks, key)| small(checks, vec![set(key)]).expect("a small write"))
            .collect();
        for at in [1, 2] {
            let refused = Refused { at, why: Refusal::Check, what: "failed index check".to_owned() };
            let verdicts = refused_or_again(&jobs, vec![refused]);
            assert!(matches!(&verdicts[..], [Verdict::Again, Verdict::Answer(Err(_)), Verdict::Again]), "{verdicts:?}");
        }
        let refused = Refused { at: 1, why: Refusal::Check, what: "failed index check".to_owned() };
        let conflict = refused_or_again(&jobs, vec![refused]).swap_remove(1);
        assert!(matches!(conflict, Verdict::Answer(Err(Error::Conflict { key, .. })) if key == "b"));
    }
}
