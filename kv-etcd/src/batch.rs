//! Operations on single keys that travel together, in one transaction.
//!
//! [`kv_core::backend::batch`] decides when they are sent and which go together; this says how. A transaction with 64
//! reads costs the server about as much as a dozen reads apart.
//!
//! Only operations on one key take part, and a condition only on that same key. etcd judges the conditions of a
//! transaction before it applies any of it, and no two writes of one have the same key, so each has the outcome that it
//! would have had alone.

use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kv_core::backend::batch::{self, Carrier, Duplicates, Rules, Verdict};
use kv_core::backend::fate::Idempotence;
use kv_core::backend::runtime::PerRuntime;
use tokio::time::timeout;

use crate::api::messages::{RequestOp, Response, TxnRequest};
use crate::api::range::revision;
use crate::error::{Failed, Unreachable};
use crate::transport::client::Client;

/// How long no request may return before one more is let through: one that etcd has forwarded to a leader that died
/// meanwhile is answered after seconds.
const STALLED: Duration = Duration::from_millis(100);
/// How many operations travel together at most. etcd counts what is nested in a transaction on top of the transaction's
/// own operations, 128 in all.
const MOST_OPERATIONS: usize = 127;
/// How many bytes of keys and values travel together at most, and how large one may be to take part.
const MOST_BYTES: usize = 512 << 10;
const LARGEST: usize = 16 << 10;

/// An operation on one key.
pub(crate) trait Job: Clone + Send + Sync + 'static {
    /// What comes of it.
    type Answer: Send + 'static;
    /// Whether it may be sent twice. Of those that may not, no two in a transaction have the same key.
    const IDEMPOTENCE: Idempotence;

    /// How many requests may be in flight where there are so many operations in all: more requests keep the server
    /// busy, and fewer are fuller.
    fn window(operations: usize) -> usize;

    /// Its key.
    fn key(&self) -> &Bytes;

    /// Its size, key included, in bytes.
    fn bytes(&self) -> usize;

    /// Sends it by itself.
    fn alone(self, client: &Client) -> impl Future<Output = Result<Self::Answer, Failed>> + Send;

    /// What it is within a transaction.
    fn part(self) -> RequestOp;

    /// What came of it in a transaction that was applied at `revision`; `None` if that is no answer to it.
    fn answer(part: Option<Response>, revision: u64) -> Option<Self::Answer>;
}

/// Sends operations of one kind; each runtime has a queue of its own.
pub(crate) struct Batcher<J: Job> {
    client: Arc<Client>,
    queues: PerRuntime<batch::Batcher<Transactions<J>>>,
}

impl<J: Job> Batcher<J> {
    pub(crate) fn new(client: &Arc<Client>) -> Self {
        Self { client: Arc::clone(client), queues: PerRuntime::new() }
    }

    /// Sends an operation: at once if few requests are in flight, else together with those that wait.
    pub(crate) async fn submit(&self, job: J) -> Result<J::Answer, Failed> {
        let make = || batch::Batcher::new(Transactions { client: Arc::clone(&self.client), kind: PhantomData });
        self.queues.get(make).submit(One(job)).await
    }
}

/// An operation in the form that the queue knows.
struct One<J>(J);

impl<J: Job> batch::Job for One<J> {
    type Key = Bytes;

    fn unique_key(&self) -> Option<Bytes> {
        (!J::IDEMPOTENCE.is_repeatable()).then(|| self.0.key().clone())
    }

    fn bytes(&self) -> usize {
        self.0.bytes()
    }
}

/// Carries operations in transactions.
struct Transactions<J> {
    client: Arc<Client>,
    kind: PhantomData<fn() -> J>,
}

impl<J: Job> Transactions<J> {
    async fn call(&self, jobs: &[One<J>]) -> Result<Vec<Result<J::Answer, Failed>>, Failed> {
        let success = jobs.iter().map(|job| job.0.clone().part()).collect();
        let request = TxnRequest { success, ..TxnRequest::default() };
        let limit = self.client.config.timeout;
        let answer = timeout(limit, self.client.call(request)).await;
        let answer = answer.unwrap_or_else(|_elapsed| Err(Failed::given_up(J::IDEMPOTENCE)))?;
        let revision = revision(answer.header.as_ref())?;
        let mut parts = answer.responses.into_iter();
        let answers = jobs.iter().map(|_| {
            let part = parts.next().and_then(|part| part.response);
            J::answer(part, revision).ok_or_else(|| Failed::unexpected("an answer is missing"))
        });
        Ok(answers.collect())
    }
}

impl<J: Job> Carrier for Transactions<J> {
    type Job = One<J>;
    type Answer = Result<J::Answer, Failed>;

    fn rules(&self) -> Rules {
        Rules {
            operations: MOST_OPERATIONS,
            bytes: MOST_BYTES,
            largest: LARGEST,
            duplicates: Duplicates::Alone,
            stalled_after: STALLED,
        }
    }

    fn window(&self, jobs: usize) -> usize {
        J::window(jobs)
    }

    async fn send_alone(&self, job: One<J>) -> Self::Answer {
        job.0.alone(&self.client).await
    }

    async fn send_together(&self, jobs: &[One<J>]) -> Vec<Verdict<Self::Answer>> {
        let failed = match self.call(jobs).await {
            Ok(answers) => return answers.into_iter().map(Verdict::Answer).collect(),
            Err(failed) => failed,
        };
        // One of them may be what was refused, and must not take the others with it.
        let alone = failed.is_refusal() || (failed.is_too_large() && J::IDEMPOTENCE.is_repeatable());
        jobs.iter().map(|_| if alone { Verdict::Alone } else { Verdict::Answer(Err(failed.clone())) }).collect()
    }

    fn not_sent(&self) -> Self::Answer {
        Err(Unreachable::for_now("it was not sent: the runtime that was to send it has ended").into())
    }

    fn unanswered(&self) -> Self::Answer {
        Err(Failed::given_up(J::IDEMPOTENCE))
    }
}
