//! Reads of single keys that travel together, in one transaction that only reads.
//!
//! It is as fresh as reads alone: the leader asks a quorum first if `?consistent` wants that, and answers all of it from
//! one state. A read of an absent key would make the whole transaction fail. So a key that was absent the last time is
//! checked to be absent still. If it is not, or if another key is gone, Consul names these operations, and the others are
//! read again without them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kv_core::backend::batch::{Batcher, Carrier, Duplicates, Job, Rules, Verdict};
use kv_core::backend::call::Call;
use kv_core::backend::fate;
use kv_core::{Error, Result, Value};

use super::beliefs::{Belief, Beliefs};
use crate::api::messages::Operation;
use crate::api::transaction::Refused;
use crate::error::Refusal;
use crate::read::{self, Found};
use crate::settings::{OPERATION, TXN_OPS};
use crate::shared::Shared;
use crate::transport::callers::Callers;

/// How many requests for queued reads keep a near agent busy.
const IN_FLIGHT: usize = 3;

/// If no request starts for this long, one more may.
const STALL: Duration = Duration::from_millis(100);

/// The largest value that travels with others, in bytes. A small value would come as late as a large one.
const LARGEST: usize = 16 << 10;

/// The queue of one runtime's reads.
pub(crate) type Reads = Batcher<ReadTransactions>;

/// Sends reads in transactions.
pub(crate) struct ReadTransactions {
    shared: Arc<Shared>,
    beliefs: Arc<Beliefs>,
}

/// A read of one key.
pub(crate) struct Read {
    key: String,
    call: Call,
    belief: Belief,
}

impl ReadTransactions {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, beliefs: Arc::default() }
    }

    pub(crate) fn read(&self, key: &str) -> Read {
        Read { key: key.to_owned(), call: Call::current(), belief: self.beliefs.of(key) }
    }

    /// Notes what was read of a key.
    fn note(&self, key: &str, result: &Result<Value>) {
        match result {
            Ok(value) if value.data.len() > LARGEST => self.beliefs.note(key, Belief::Large),
            Ok(_) => self.beliefs.note(key, Belief::Usual),
            Err(Error::NotFound { .. }) => self.beliefs.note(key, Belief::Absent),
            Err(_) => {}
        }
    }

    fn answer(&self, key: &str, result: Result<Value>) -> Verdict<Result<Value>> {
        self.note(key, &result);
        Verdict::Answer(result)
    }

    /// What became of reads that were answered together.
    fn found(&self, jobs: &[Read], found: Vec<(String, Value)>) -> Vec<Verdict<Result<Value>>> {
        let mut found: HashMap<String, Value> = found.into_iter().collect();
        let mut left: HashMap<&str, usize> = HashMap::new();
        for job in jobs {
            *left.entry(&job.key).or_default() += 1;
        }
        let mut take = |key: &str| {
            let left = left.get_mut(key)?;
            *left -= 1;
            if *left == 0 { found.remove(key) } else { found.get(key).cloned() }
        };
        let verdict = |job: &Read| match (job.belief, take(&job.key)) {
            (Belief::Absent, _) => self.answer(&job.key, Err(absent(&job.key))),
            (_, Some(value)) => self.answer(&job.key, Ok(value)),
            // Consul leaves out what the token may not read.
            (_, None) => Verdict::Alone,
        };
        jobs.iter().map(verdict).collect()
    }

    /// What became of reads some of which prevented the transaction.
    fn refused(&self, jobs: &[Read], refused: &[Refused]) -> Vec<Verdict<Result<Value>>> {
        let why: HashMap<usize, Refusal> = refused.iter().map(|one| (one.at, one.why)).collect();
        let verdict = |(at, job): (usize, &Read)| match (why.get(&at), job.belief) {
            (None, _) => Verdict::Again,
            (Some(Refusal::Check), Belief::Absent) => {
                // It exists by now.
                self.beliefs.note(&job.key, Belief::Usual);
                Verdict::Alone
            }
            (Some(Refusal::Check), _) if !self.shared.settings.get().has_acls => {
                self.answer(&job.key, Err(absent(&job.key)))
            }
            // Consul says of what the token may not read that it is absent, in a transaction, but not to one who asks
            // for it alone.
            (Some(_), _) => Verdict::Alone,
        };
        jobs.iter().enumerate().map(verdict).collect()
    }
}

impl Read {
    fn operation(&self) -> Operation<'_> {
        match self.belief {
            Belief::Absent => Operation::check_index(&self.key, 0),
            Belief::Usual | Belief::Large => Operation::get(&self.key),
        }
    }
}

fn absent(key: &str) -> Error {
    Error::NotFound { key: key.to_owned() }
}

impl Job for Read {
    type Key = ();

    fn unique_key(&self) -> Option<()> {
        None
    }

    /// The bytes that it takes in the transaction's JSON, or more; those of the answer count, too.
    fn bytes(&self) -> usize {
        // JSON needs six bytes for some characters.
        6 * self.key.len() + if self.belief == Belief::Large { usize::MAX / 2 } else { OPERATION }
    }
}

impl Carrier for ReadTransactions {
    type Job = Read;
    type Answer = Result<Value>;

    fn rules(&self) -> Rules {
        let bytes = self.shared.settings.get().body_limit;
        Rules { operations: TXN_OPS, bytes, largest: bytes, duplicates: Duplicates::Wait, stalled_after: STALL }
    }

    fn window(&self, _jobs: usize) -> usize {
        IN_FLIGHT
    }

    fn most_in_flight(&self) -> usize {
        self.shared.most_in_flight()
    }

    fn is_answer(&self, answer: &Result<Value>) -> bool {
        matches!(answer, Ok(_) | Err(Error::NotFound { .. }))
    }

    async fn send_alone(&self, job: Read) -> Result<Value> {
        // Boxed to keep the futures of queued reads small.
        let result = Box::pin(read::get(&self.shared, &Callers::one(&job.call), &job.key)).await;
        self.note(&job.key, &result);
        result
    }

    async fn send_together(&self, jobs: &[Read]) -> Vec<Verdict<Result<Value>>> {
        let operations: Vec<_> = jobs.iter().map(Read::operation).collect();
        let callers = Callers::together(jobs.iter().map(|job| job.call.clone()).collect());
        match Box::pin(read::get_together(&self.shared, &callers, &operations)).await {
            Ok(Found::All(found)) => self.found(jobs, found),
            Ok(Found::Refused(refused)) => self.refused(jobs, &refused),
            Err(error @ Error::Unavailable { .. }) => {
                jobs.iter().map(|_| Verdict::Answer(Err(fate::copy(&error)))).collect()
            }
            // Each of them alone may be small enough, or permitted.
            Err(_) => jobs.iter().map(|_| Verdict::Alone).collect(),
        }
    }

    fn not_sent(&self) -> Result<Value> {
        Err(Error::unavailable("the read was not sent: the runtime that was to send it has ended"))
    }

    fn unanswered(&self) -> Result<Value> {
        Err(Error::unavailable("the runtime that sent the read has ended"))
    }
}
