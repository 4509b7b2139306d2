//! The trait that a store implements, and its obligations.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_core::stream::BoxStream;
use futures_util::future::BoxFuture;

use super::lease::Grant;
use super::txn::Txn;
use crate::{Event, Limits, Result, Value};

/// The events of a watch: after an `Err` it ends.
pub type EventStream = BoxStream<'static, Result<Event>>;

/// A connection in the making: what [`Registration::connect`](crate::Registration::connect) returns.
pub type Connecting = BoxFuture<'static, Result<Arc<dyn Backend>>>;

/// What a store implements; users hold a [`Kv`](crate::Kv), which owns everything that is the same for every store.
///
/// # What the handle has done already
/// Keys, prefixes and directories are valid and complete: the root is part of them, in what is given and in what is
/// given back, errors included. Values, transactions and times to live are within [`limits`](Self::limits), and
/// times to live are multiples of [`Limits::ttl_step`]. The handle bounds every call but [`lock`](Self::lock) by the
/// request timeout, by dropping the call's future, and then answers [`Error::Indeterminate`] for a write and
/// [`Error::Unavailable`] for anything else. It adds backend, operation and key to errors, and the spans.
///
/// # Obligations of every method
/// 1. **Contract.** Every clause of [`contract`](crate::contract) holds; the conformance suite is the judge.
/// 2. **Cancellation.** Dropping a future at any point leaves the backend usable, and nothing behind in the store
///    that would outlive a time to live.
/// 3. **Fate.** [`Error::Unavailable`] only for what was certainly not applied; a write that may have been applied
///    is [`Error::Indeterminate`], and is not sent a second time unless that cannot change the outcome (clause W6).
///    A backend that knows sooner than the request timeout (a refused connection, a failed connect) says so.
/// 4. **Endpoints.** A call that failed before it was sent moves on to the next endpoint within the same call.
/// 5. **Secrets** appear in no error, `Debug` or span (clause A4).
/// 6. **Resources.** Dropping the last reference ends every task and connection of the backend.
///
/// [`Error::Indeterminate`]: crate::Error::Indeterminate
/// [`Error::Unavailable`]: crate::Error::Unavailable
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// The backend's name, such as `etcd`: the one it is registered under.
    fn name(&self) -> &'static str;

    /// What the store takes and promises.
    fn limits(&self) -> Limits;

    /// Succeeds only if the store can serve reads and writes now: a cluster has a leader (clause A6).
    async fn ping(&self) -> Result<()>;

    /// Reads one key, linearizably (clause R1); [`Error::NotFound`](crate::Error::NotFound) if it does not exist.
    async fn get(&self, key: &str) -> Result<Value>;

    /// Reads every key that begins with `prefix`, as one snapshot (clause R2).
    ///
    /// Entries whose keys are not UTF-8 are left out, with a warning.
    async fn list(&self, prefix: &str) -> Result<Snapshot>;

    /// Lists what stands directly below `prefix`, which is empty or ends in `/`: complete paths, those of
    /// sub-directories with a `/` at the end, each once, in any order (clause R3).
    async fn keys(&self, prefix: &str) -> Result<Vec<String>>;

    /// Applies a transaction: all of it or nothing (clauses W1 to W6).
    ///
    /// Returns the index of the values that it set, or `None` if it sets none. It is never empty. A transaction of
    /// one operation may be sent in the store's cheaper native form.
    ///
    /// # Errors
    /// [`Error::Conflict`](crate::Error::Conflict) with the key of an index check that failed;
    /// [`Error::Lost`](crate::Error::Lost) with the lock's key if [`Check::Held`](super::Check::Held) failed.
    async fn commit(&self, txn: Txn) -> Result<Option<u64>>;

    /// Opens a watch on every key that begins with `prefix` (clauses E1 to E5).
    ///
    /// By the time it returns, the point from which events are delivered is fixed: `after`, or now for 0.
    /// The stream is lazy about memory: it reads ahead by a bounded amount.
    async fn watch(&self, prefix: &str, after: u64) -> Result<EventStream>;

    /// Lists, and watches from exactly that point on (clause E6).
    async fn observe(&self, prefix: &str) -> Result<(Snapshot, EventStream)>;

    /// Creates `key` with an empty value and a lease on it;
    /// [`Error::Conflict`](crate::Error::Conflict) if it exists (clause L1).
    async fn ephemeral_key(&self, key: &str, ttl: Duration) -> Result<Grant>;

    /// Waits for the lock on `key`, as long as it takes (clauses L4 and L5), through disconnects as a watch does.
    ///
    /// Dropping the future abandons the wait and leaves nothing behind in the store.
    /// [`Error::Conflict`](crate::Error::Conflict) if `key` holds a value.
    async fn lock(&self, key: &str, ttl: Duration) -> Result<Grant>;

    /// Takes the lock on `key` if nobody holds it or waits for it, and answers `None` otherwise.
    async fn try_lock(&self, key: &str, ttl: Duration) -> Result<Option<Grant>>;
}

/// What [`Backend::list`] gives: entries in any order, each key once, at one point in history.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// Complete keys with their values. Sorted ones are taken in fastest.
    pub entries: Vec<(String, Value)>,
    /// The point in history, usable as `after` of a watch.
    pub index: u64,
}
