//! What a driver says about its operations and how they are sent.

use std::hash::Hash;

use super::rules::Rules;

/// An operation that can travel together with others.
pub trait Job: Send + Sync + 'static {
    /// The key that no two operations of one batch may share; cheap to clone.
    type Key: Hash + Eq;

    /// The key that must be unique in a batch; `None` if others may use it too, as for a read.
    fn unique_key(&self) -> Option<Self::Key>;

    /// The size of the operation in a request, in bytes.
    fn bytes(&self) -> usize;

    /// How many operations of a request it takes; more than one if it has a check of its own.
    fn operations(&self) -> usize {
        1
    }
}

/// What became of one operation of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict<A> {
    /// It is answered.
    Answer(A),
    /// It is sent again, together with the others that have this verdict.
    ///
    /// If every operation of a batch has it, each is sent alone instead, because the same batch would fail again.
    Again,
    /// It is sent alone: the failure of the batch may have been another operation's fault.
    Alone,
}

/// How a driver sends operations; the [`Batcher`](super::Batcher) decides when, and which go together.
pub trait Carrier: Send + Sync + 'static {
    /// An operation.
    type Job: Job;

    /// The outcome of an operation, usually a `Result`.
    type Answer: Send + 'static;

    /// The limits of a batch; read once.
    fn rules(&self) -> Rules;

    /// How many requests keep a server busy that is near, where `jobs` operations are waiting or in flight; at least 1.
    ///
    /// So many may always be in flight. The batcher lets more through where the distance, and not the work of the
    /// server, takes the time. It is called under a lock and must return at once.
    fn window(&self, jobs: usize) -> usize;

    /// How many requests the server and the connections to it take at once, as far as is known now.
    ///
    /// It is called under a lock and must return at once.
    fn most_in_flight(&self) -> usize {
        usize::MAX
    }

    /// Whether the server gave this answer, so that the time that it took says something about the server.
    fn is_answer(&self, answer: &Self::Answer) -> bool;

    /// Notes that an operation has to wait for requests in flight, so that the driver can say for what
    /// ([`Call::asks`](crate::backend::call::Call::asks)).
    fn queued(&self, job: &Self::Job) {
        let _ = job;
    }

    /// Sends one operation by itself.
    ///
    /// The future is dropped when the caller gives up. It becomes part of the future of every operation, also of those
    /// that wait for others to carry them, so box it if it is large.
    fn send_alone(&self, job: Self::Job) -> impl Future<Output = Self::Answer> + Send;

    /// Sends two or more operations in one request, and says what became of each, in the same order.
    fn send_together(&self, jobs: &[Self::Job]) -> impl Future<Output = Vec<Verdict<Self::Answer>>> + Send;

    /// The answer to an operation that was never sent because the runtime ended first.
    ///
    /// That is [`Error::Unavailable`](crate::Error::Unavailable) for a write too
    /// ([clause W6](crate::contract::CLAUSES#W6)).
    fn not_sent(&self) -> Self::Answer;

    /// The answer to an operation whose batch was sent and then dropped with its runtime, so its outcome is unknown.
    fn unanswered(&self) -> Self::Answer;
}
