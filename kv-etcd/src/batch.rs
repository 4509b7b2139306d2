//! Operations on single keys that travel together, in one transaction.
//!
//! [`kv_core::backend::batch`] decides when they are sent and which go together; this module sends them. A transaction
//! with 64 reads costs the server about as much as 12 single reads.
//!
//! Only operations on one key take part. An operation may have a condition, on that same key. etcd evaluates all
//! conditions of a transaction before it applies any operation, and no two writes in a transaction have the same key.
//! So each operation has the outcome that it would have had alone.

use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kv_core::backend::batch::{self, Carrier, Duplicates, Rules, Verdict};
use kv_core::backend::call::Call;
use kv_core::backend::fate::Idempotence;
use kv_core::backend::runtime::PerRuntime;
use tokio::time::timeout_at;

use crate::api::messages::{RequestOp, Response, TxnRequest, TxnResponse};
use crate::api::range::revision;
use crate::error::Failed;
use crate::transport::client::{Client, Volume, note};

/// If no request returns for this long, one more may be in flight. etcd takes seconds to answer a request that it
/// forwarded to a leader that died meanwhile.
const STALLED: Duration = Duration::from_millis(100);
/// The most operations that travel together. etcd accepts 128 in a transaction, and counts nested ones, too.
const MOST_OPERATIONS: usize = 127;
/// The most bytes of keys and values that travel together.
const MOST_BYTES: usize = 512 << 10;
/// The largest operation that travels with others, in bytes.
pub(crate) const LARGEST: usize = 16 << 10;

/// An operation on one key.
pub(crate) trait Job: Clone + Send + Sync + 'static {
    /// Its result.
    type Answer: Send + 'static;
    /// Whether it may be sent twice. If not, it shares no transaction with another operation on the same key.
    const IDEMPOTENCE: Idempotence;

    /// How many requests keep a near server busy while this many operations wait or are in flight. Fewer requests are
    /// fuller.
    fn window(operations: usize) -> usize;

    /// The key that it reads or writes.
    fn key(&self) -> &Bytes;

    /// Its size in bytes, with its key and its expected answer.
    fn bytes(&self) -> usize;

    /// Whether it is known to send or receive much.
    fn size(&self) -> Volume {
        if self.bytes() > LARGEST { Volume::Large } else { Volume::Small }
    }

    /// Sends it in a request of its own.
    fn alone(self, client: &Client, caller: &[Call]) -> impl Future<Output = Result<Self::Answer, Failed>> + Send;

    /// Its form as a part of a transaction.
    fn part(self) -> RequestOp;

    /// Its result, from its part of the answer of a transaction that was applied at `revision`; `None` if that part is
    /// no answer to it.
    fn answer(part: Option<Response>, revision: u64) -> Option<Self::Answer>;
}

/// Sends operations of one kind, with one queue for each runtime.
pub(crate) struct Batcher<J: Job> {
    client: Arc<Client>,
    queues: PerRuntime<batch::Batcher<Transactions<J>>>,
}

impl<J: Job> Batcher<J> {
    pub(crate) fn new(client: &Arc<Client>) -> Self {
        Self { client: Arc::clone(client), queues: PerRuntime::new() }
    }

    /// Sends an operation: at once if few requests are in flight, else together with others that wait.
    pub(crate) async fn submit(&self, job: J) -> Result<J::Answer, Failed> {
        let make = || batch::Batcher::new(Transactions { client: Arc::clone(&self.client), kind: PhantomData });
        let caller = Call::current();
        if !J::IDEMPOTENCE.is_repeatable() {
            caller.not_sent();
        }
        self.queues.get(make).submit(One { job, caller }).await
    }
}

/// An operation, and the call that waits for it.
struct One<J> {
    job: J,
    caller: Call,
}

impl<J: Job> batch::Job for One<J> {
    type Key = Bytes;

    fn unique_key(&self) -> Option<Bytes> {
        (!J::IDEMPOTENCE.is_repeatable()).then(|| self.job.key().clone())
    }

    fn bytes(&self) -> usize {
        self.job.bytes()
    }
}

/// Sends operations in transactions.
struct Transactions<J> {
    client: Arc<Client>,
    kind: PhantomData<fn() -> J>,
}

impl<J: Job> Transactions<J> {
    /// Sends the operations whose callers still wait.
    async fn call(&self, jobs: &[One<J>]) -> Result<Answers<J>, Failed> {
        let callers: Vec<Call> = jobs.iter().map(|one| one.caller.clone()).collect();
        let (waited_for, answer) = if J::IDEMPOTENCE.is_repeatable() {
            let answer = self.client.call_for(&callers, Volume::Small, request(jobs)).await?;
            (vec![true; jobs.len()], answer)
        } else {
            let ready = self.client.ready(&callers).await?;
            for caller in &callers {
                caller.asks(ready.endpoint());
            }
            // Those who have given up meanwhile were told that nothing was applied.
            let waited_for: Vec<bool> = callers.iter().map(Call::sent).collect();
            if !waited_for.contains(&true) {
                return Ok(jobs.iter().map(|_| None).collect());
            }
            let left = jobs.iter().zip(&waited_for).filter_map(|(one, waited_for)| waited_for.then_some(one));
            let request = request(left);
            (waited_for, ready.send(request).await?)
        };
        answers::<J>(&waited_for, answer)
    }
}

/// The answer to each operation; `None` if it was not sent.
type Answers<J> = Vec<Option<Result<<J as Job>::Answer, Failed>>>;

fn request<'a, J: Job>(jobs: impl IntoIterator<Item = &'a One<J>>) -> TxnRequest {
    let success = jobs.into_iter().map(|one| one.job.clone().part()).collect();
    TxnRequest { success, ..TxnRequest::default() }
}

/// The answers to the operations that were sent.
fn answers<J: Job>(sent: &[bool], answer: TxnResponse) -> Result<Answers<J>, Failed> {
    let revision = revision(answer.header.as_ref())?;
    let mut parts = answer.responses.into_iter();
    let mut next = || {
        let part = parts.next().and_then(|part| part.response);
        J::answer(part, revision).ok_or_else(|| Failed::unexpected("an answer is missing"))
    };
    Ok(sent.iter().map(|sent| sent.then(&mut next)).collect())
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

    fn most_in_flight(&self) -> usize {
        // Streams of events, and calls that travel alone, need some as well.
        (self.client.most_in_flight() / 2).max(1)
    }

    fn is_answer(&self, answer: &Self::Answer) -> bool {
        answer.is_ok()
    }

    fn queued(&self, one: &One<J>) {
        one.caller.asks(&self.client.next_endpoint());
    }

    async fn send_alone(&self, one: One<J>) -> Self::Answer {
        one.job.alone(&self.client, std::slice::from_ref(&one.caller)).await
    }

    async fn send_together(&self, jobs: &[One<J>]) -> Vec<Verdict<Self::Answer>> {
        let failed = match until_given_up(jobs, self.call(jobs)).await {
            Some(Ok(answers)) => {
                let answer = |answer: Option<_>| Verdict::Answer(answer.unwrap_or_else(|| Err(Failed::withdrawn())));
                return answers.into_iter().map(answer).collect();
            }
            Some(Err(failed)) => failed,
            None => Failed::unanswered("no answer came", J::IDEMPOTENCE),
        };
        // If another attempt is allowed, each is sent alone, so that operations whose callers gave up are left out. The
        // same after a refusal: one operation may have caused it, and must not fail the others.
        let again = failed.is_worth_another_attempt() || failed.is_stale_token();
        let alone = again || failed.is_refusal() || (failed.is_too_large() && J::IDEMPOTENCE.is_repeatable());
        if alone {
            for one in jobs {
                let _ = note(std::slice::from_ref(&one.caller), failed.clone(), !J::IDEMPOTENCE.is_repeatable());
            }
        }
        jobs.iter().map(|_| if alone { Verdict::Alone } else { Verdict::Answer(Err(failed.clone())) }).collect()
    }

    fn not_sent(&self) -> Self::Answer {
        Err(Failed::withdrawn())
    }

    fn unanswered(&self) -> Self::Answer {
        Err(Failed::unanswered("the runtime that sent it has ended", J::IDEMPOTENCE))
    }
}

/// A batch lasts this much longer than its callers wait, so that their handles give up first: the handle knows whether
/// a byte of its call has left.
const GRACE: Duration = Duration::from_secs(1);

/// Stops waiting when the last caller has given up, because a server may never answer.
async fn until_given_up<J: Job, T>(jobs: &[One<J>], sending: impl Future<Output = T> + Send) -> Option<T> {
    let deadlines: Option<Vec<_>> = jobs.iter().map(|one| one.caller.deadline()).collect();
    match deadlines.and_then(|deadlines| deadlines.into_iter().max()) {
        Some(last) => timeout_at(last + GRACE, sending).await.ok(),
        None => Some(sending.await),
    }
}
