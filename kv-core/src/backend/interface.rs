//! The trait that a store implements, and its obligations.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_core::stream::BoxStream;
use futures_util::future::BoxFuture;

use super::lease::Grant;
use super::txn::Txn;
use crate::{Event, Limits, Result, Value};

/// The events of a watch; an `Err` is its last item.
pub type EventStream = BoxStream<'static, Result<Event>>;

/// A connection in the making: what [`Registration::connect`](crate::Registration::connect) returns.
pub type Connecting = BoxFuture<'static, Result<Arc<dyn Backend>>>;

/// What a store implements. Users hold a [`Kv`](crate::Kv), which does everything that is the same for every store.
///
/// # What the handle has done already
/// Keys, prefixes and directories are valid and complete: the root is part of them, in arguments, results and errors.
/// Values, transactions and times to live are within [`limits`](Self::limits), and times to live are multiples of
/// [`Limits::ttl_step`]. The handle limits every call but [`lock`](Self::lock) to the request timeout: it drops the
/// call's future, and then returns [`Error::Indeterminate`] for a write and [`Error::Unavailable`] for anything else.
/// It adds the backend, the operation and the key to errors, and it makes the spans.
///
/// # Obligations of every method
/// 1. **Contract.** Every clause of [`contract`](crate::contract) holds. The conformance suite decides.
/// 2. **Cancellation.** A future can be dropped at any point. The backend stays usable, and nothing stays behind in the
///    store for longer than a time to live.
/// 3. **Fate.** [`Error::Unavailable`] means that the call was certainly not applied. A write that may have been
///    applied is [`Error::Indeterminate`], and it is not sent again unless that cannot change the outcome
///    ([clause W6](crate::contract::CLAUSES#W6); see [`fate`](super::fate)). A backend that knows before the
///    request timeout, from a refused connection for example, returns at once.
/// 4. **Endpoints.** A call that failed before it was sent goes to the next endpoint within the same call.
/// 5. **Secrets** appear in no error, `Debug` or span ([clause A4](crate::contract::CLAUSES#A4)).
/// 6. **Resources.** Dropping the last reference ends every task and connection of the backend.
///
/// [`Error::Indeterminate`]: crate::Error::Indeterminate
/// [`Error::Unavailable`]: crate::Error::Unavailable
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// The name under which the backend is registered, such as `etcd`.
    fn name(&self) -> &'static str;

    /// What the store accepts and promises.
    fn limits(&self) -> Limits;

    /// Succeeds only if the store can serve reads and writes now: a cluster has a leader
    /// ([clause A6](crate::contract::CLAUSES#A6)).
    async fn ping(&self) -> Result<()>;

    /// Reads one key, linearizably ([clause R1](crate::contract::CLAUSES#R1));
    /// [`Error::NotFound`](crate::Error::NotFound) if it does not exist.
    async fn get(&self, key: &str) -> Result<Value>;

    /// Reads every key that begins with `prefix`, as one snapshot ([clause R2](crate::contract::CLAUSES#R2)).
    ///
    /// Entries whose keys are not UTF-8 are left out, with a warning.
    async fn list(&self, prefix: &str) -> Result<Snapshot>;

    /// Lists what stands directly below `prefix`, which is empty or ends in `/`: complete paths, those of
    /// sub-directories with a `/` at the end, each once, in any order ([clause R3](crate::contract::CLAUSES#R3)).
    async fn keys(&self, prefix: &str) -> Result<Vec<String>>;

    /// Applies a transaction: all of it or nothing (clauses [W1](crate::contract::CLAUSES#W1) to
    /// [W6](crate::contract::CLAUSES#W6)).
    ///
    /// Returns the index of the values that it set, or `None` if it sets none. It is never empty. A transaction of
    /// one operation may be sent in the store's cheaper native form.
    ///
    /// # Errors
    /// [`Error::Conflict`](crate::Error::Conflict) with the key of an index check that failed;
    /// [`Error::Lost`](crate::Error::Lost) with the lock's key if [`Check::Held`](super::Check::Held) failed.
    async fn commit(&self, txn: Txn) -> Result<Option<u64>>;

    /// Opens a watch on every key that begins with `prefix` (clauses [E1](crate::contract::CLAUSES#E1) to
    /// [E5](crate::contract::CLAUSES#E5)).
    ///
    /// By the time it returns, the point from which events are delivered is fixed: `after`, or now for 0.
    /// The stream is lazy about memory: it reads ahead by a bounded amount.
    async fn watch(&self, prefix: &str, after: u64) -> Result<EventStream>;

    /// Lists every key that begins with `prefix`, and watches from exactly that point on
    /// ([clause E6](crate::contract::CLAUSES#E6)).
    async fn observe(&self, prefix: &str) -> Result<(Snapshot, EventStream)>;

    /// Creates `key` with an empty value and a lease on it; [`Error::Conflict`](crate::Error::Conflict) if it exists
    /// ([clause L1](crate::contract::CLAUSES#L1)). A lock of that name is no key.
    ///
    /// What a plain write by another client does to it is stated in [`Limits::foreign_write`]
    /// ([clause L2b](crate::contract::CLAUSES#L2b)).
    async fn ephemeral_key(&self, key: &str, ttl: Duration) -> Result<Grant>;

    /// Waits for the lock on `key`, as long as it takes (clauses [L4](crate::contract::CLAUSES#L4) and
    /// [L5](crate::contract::CLAUSES#L5)), through disconnects as a watch does.
    ///
    /// A lock is no key ([clause L10](crate::contract::CLAUSES#L10)): what the store keeps for it lives below the name,
    /// is shown by no read and no watch, and goes with the tree. A value at or below the name does not block it.
    /// Those who wait are served in turn ([clause L13](crate::contract::CLAUSES#L13)).
    ///
    /// Dropping the future abandons the wait and leaves nothing behind in the store. What that takes in the background
    /// is awaited by [`close`](Self::close).
    async fn lock(&self, key: &str, ttl: Duration) -> Result<Grant>;

    /// Takes the lock on `key` if nobody holds it or waits for it; `None` otherwise.
    async fn try_lock(&self, key: &str, ttl: Duration) -> Result<Option<Grant>>;

    /// Waits until everything that the backend gives back in the background is given back
    /// ([clause L12](crate::contract::CLAUSES#L12)); see [`background`](super::background).
    ///
    /// [`Kv::close`](crate::Kv::close) calls it within the request timeout, after it has released every lease that it
    /// knows of and ended every wait for a lock. From then on the backend opens no connection for background work.
    /// It may be called more than once. Without background work the default is right.
    ///
    /// # Errors
    /// Whatever kept something from being given back.
    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

/// What [`Backend::list`] returns: entries in any order, each key once, at one point in history.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// Complete keys with their values. The handle is fastest if they are sorted.
    pub entries: Vec<(String, Value)>,
    /// The point in history, usable as `after` of a watch.
    pub index: u64,
}
