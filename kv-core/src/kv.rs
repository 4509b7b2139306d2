//! The handle that users hold: every verb, and everything that is the same for every store.

use std::borrow::Cow;
use std::future::Future;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tracing::Instrument as _;

use crate::backend::address::DEFAULT_TIMEOUT;
use crate::backend::fate::Idempotence;
use crate::backend::{Backend, Check, Grant, Operation, Snapshot, Txn};
use crate::key::{check_directory, check_key, check_prefix};
use crate::{EphemeralKey, Error, Limits, Listing, Lock, Result, TxnBuilder, Value, Watch, observability};

/// A key-value store, whichever it is: from [`connect`](crate::connect), cheap to clone, usable from any task.
///
/// Every call but [`lock`](Self::lock) ends within the request timeout (5 s unless the address says otherwise;
/// clause A6). Unless a method says otherwise, dropping its future is harmless for reads and leaves the fate of a
/// write unknown.
///
/// # Errors of every call
/// Beside those a method names: [`Error::Unavailable`] when the store cannot be reached or cannot serve,
/// [`Error::PermissionDenied`], [`Error::UnexpectedAnswer`], and for a write [`Error::Indeterminate`] when it may or
/// may not have been applied.
///
/// ```
/// # use kv_core::Value;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> kv_core::Result<()> {
/// # let kv = kv_core::Registry::new().with(kv_memory::REGISTRATION).connect("memory://").await?;
/// let first = kv.set("config/port", "8080").await?;
/// let second = kv.update("config/port", Value::new("9090", first)).await?;
/// assert!(second > first);
/// assert!(kv.update("config/port", Value::new("7070", first)).await.unwrap_err().is_conflict());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Kv {
    backend: Arc<dyn Backend>,
    root: Arc<str>,
    timeout: Duration,
}

impl Kv {
    /// The request timeout of a handle whose address names none.
    pub const DEFAULT_TIMEOUT: Duration = DEFAULT_TIMEOUT;

    /// Wraps a backend, with no root and the default timeout; [`connect`](crate::connect) does this for addresses.
    pub fn new(backend: Arc<dyn Backend>) -> Self {
        Self { backend, root: "".into(), timeout: Self::DEFAULT_TIMEOUT }
    }

    /// The same store with another request timeout.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The same store below any string, which need not be a valid directory: the root of an address.
    pub(crate) fn with_root(mut self, root: &str) -> Self {
        self.root = root.into();
        self
    }

    /// The same store below a directory: every key, in results and events too, is relative to it (clause K4).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> kv_core::Result<()> {
    /// # let kv = kv_core::Registry::new().with(kv_memory::REGISTRATION).connect("memory://").await?;
    /// let node = kv.scoped("nodes/7")?;
    /// node.set("state", "up").await?;
    /// assert_eq!(kv.get("nodes/7/state").await?.data, "up");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidKey`] if it is not a directory; it may end in `/`.
    pub fn scoped(&self, directory: &str) -> Result<Self> {
        Ok(self.clone().with_root(&self.complete_directory(directory)?))
    }

    /// Reads one key, linearizably (clause R1).
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::InvalidKey`], and those [of every call](Self#errors-of-every-call).
    pub async fn get(&self, key: &str) -> Result<Value> {
        self.check_key(key)?;
        let complete = self.complete(key);
        self.read("get", key, self.backend.get(&complete)).await
    }

    /// Reads every key that begins with `prefix`, as one snapshot; `""` reads everything (clauses K2 and R2).
    ///
    /// # Errors
    /// [`Error::InvalidKey`], and those [of every call](Self#errors-of-every-call).
    pub async fn get_all(&self, prefix: &str) -> Result<Listing> {
        let complete = self.complete_prefix(prefix)?;
        let snapshot = self.read("get_all", prefix, self.backend.list(&complete)).await?;
        Ok(self.listing(snapshot))
    }

    /// Lists what stands directly below a directory, sorted; `""` is the root (clause R3).
    ///
    /// The results are full paths; those of sub-directories end in `/`. A directory that does not exist is empty.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> kv_core::Result<()> {
    /// # let kv = kv_core::Registry::new().with(kv_memory::REGISTRATION).connect("memory://").await?;
    /// kv.set("nodes/1", "up").await?;
    /// kv.set("nodes/1/disk", "ok").await?;
    /// assert_eq!(kv.keys("nodes").await?, ["nodes/1", "nodes/1/"]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidKey`], and those [of every call](Self#errors-of-every-call).
    pub async fn keys(&self, directory: &str) -> Result<Vec<String>> {
        let complete = self.complete_directory(directory)?;
        let mut keys = self.read("keys", directory, self.backend.keys(&complete)).await?;
        for key in &mut keys {
            self.make_relative(key);
        }
        keys.sort_unstable();
        Ok(keys)
    }

    /// Sets a key, whether or not it exists, and returns its new index (clause W1).
    ///
    /// # Errors
    /// [`Error::InvalidKey`], [`Error::ValueTooLarge`] (the old value stands), and those
    /// [of every call](Self#errors-of-every-call).
    pub async fn set(&self, key: &str, data: impl Into<Bytes>) -> Result<u64> {
        self.write("set", key, None, Some(data.into())).await.and_then(|index| self.expect_index("set", key, index))
    }

    /// Deletes a key; one that does not exist is no error.
    ///
    /// # Errors
    /// [`Error::InvalidKey`], and those [of every call](Self#errors-of-every-call).
    pub async fn delete(&self, key: &str) -> Result<()> {
        self.write("delete", key, None, None).await.map(drop)
    }

    /// Deletes the key `directory` and everything below it at once, never its siblings (clause W4).
    ///
    /// `""` deletes everything under the root. A directory that does not exist is no error.
    ///
    /// # Errors
    /// [`Error::InvalidKey`], and those [of every call](Self#errors-of-every-call).
    pub async fn delete_tree(&self, directory: &str) -> Result<()> {
        self.txn().delete_tree(directory).commit_as("delete_tree", directory).await.map(drop)
    }

    /// Compare-and-swap: sets a key only if its index is `value.index`, or, for 0, only if it does not exist
    /// (clause W2). Returns its new index.
    ///
    /// # Errors
    /// [`Error::Conflict`] if the key is otherwise, and nothing was changed; [`Error::InvalidKey`],
    /// [`Error::ValueTooLarge`], and those [of every call](Self#errors-of-every-call).
    pub async fn update(&self, key: &str, value: Value) -> Result<u64> {
        let index = self.write("update", key, Some(value.index), Some(value.data)).await?;
        self.expect_index("update", key, index)
    }

    /// Compare-and-delete: deletes a key only if its index is `index` (clause W3).
    ///
    /// With index 0 it succeeds if the key does not exist, and there is nothing to delete.
    ///
    /// # Errors
    /// [`Error::Conflict`] if the key is otherwise, and nothing was changed; [`Error::InvalidKey`], and those
    /// [of every call](Self#errors-of-every-call).
    pub async fn remove(&self, key: &str, index: u64) -> Result<()> {
        self.write("remove", key, Some(index), None).await.map(drop)
    }

    /// Begins a transaction: checks and writes that are applied together or not at all (clause W5).
    pub fn txn(&self) -> TxnBuilder {
        TxnBuilder::new(self.clone())
    }

    /// Watches every key that begins with `prefix`, for changes with an index above `after`; 0: from now on.
    ///
    /// Once this returns, no later event is missed (clause E1). What `after` may reach back to differs by store:
    /// see [`Limits::watch_history`].
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> kv_core::Result<()> {
    /// # let kv = kv_core::Registry::new().with(kv_memory::REGISTRATION).connect("memory://").await?;
    /// let mut watch = kv.watch("nodes/", 0).await?;
    /// kv.set("nodes/1", "up").await?;
    /// let event = watch.next().await.expect("the watch goes on")?;
    /// assert_eq!((event.key.as_str(), event.event_type), ("nodes/1", kv_core::EventType::Create));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Compacted`] if the store no longer has every event after `after` (it may also come as the watch's
    /// item); [`Error::InvalidKey`], and those [of every call](Self#errors-of-every-call).
    pub async fn watch(&self, prefix: &str, after: u64) -> Result<Watch> {
        let complete = self.complete_prefix(prefix)?;
        let events = self.read("watch", prefix, self.backend.watch(&complete, after)).await?;
        Ok(Watch::new(events, self.clone(), prefix))
    }

    /// Reads every key that begins with `prefix`, and watches from exactly that point on (clause E6).
    ///
    /// # Errors
    /// [`Error::InvalidKey`], and those [of every call](Self#errors-of-every-call).
    pub async fn observe(&self, prefix: &str) -> Result<(Listing, Watch)> {
        let complete = self.complete_prefix(prefix)?;
        let (snapshot, events) = self.read("observe", prefix, self.backend.observe(&complete)).await?;
        Ok((self.listing(snapshot), Watch::new(events, self.clone(), prefix)))
    }

    /// Creates a key, with an empty value, that vanishes once `ttl` lapses without renewal (clause L1).
    ///
    /// Other clients may read it. A plain write to it by another client is outside the contract: etcd makes the key
    /// permanent, Consul does not. Another client may delete it, and the handle finds it lost. The holder writes through
    /// the handle.
    ///
    /// # Errors
    /// [`Error::Conflict`] if the key exists, [`Error::InvalidTtl`], [`Error::InvalidKey`], and those
    /// [of every call](Self#errors-of-every-call).
    pub async fn ephemeral_key(&self, key: &str, ttl: Duration) -> Result<EphemeralKey> {
        let ttl = self.prepare_lease(key, ttl)?;
        let complete = self.complete(key);
        let granting = self.backend.ephemeral_key(&complete, ttl);
        let grant = self.call("ephemeral_key", key, Idempotence::Once, granting).await?;
        Ok(EphemeralKey::new(self.clone(), key, grant))
    }

    /// Waits for the lock on `key`, as long as it takes, and holds it for `ttl` from its last renewal (clause L4).
    ///
    /// While a lock is held or waited for, `key` and everything below `key/` belong to it: what a store keeps there
    /// is its own affair, and data there is outside the contract.
    ///
    /// Dropping the future abandons the wait and leaves nothing behind; for a bound, use `tokio::time::timeout`.
    ///
    /// # Errors
    /// [`Error::Conflict`] if `key` holds a value, [`Error::InvalidTtl`], [`Error::InvalidKey`], and those
    /// [of every call](Self#errors-of-every-call).
    pub async fn lock(&self, key: &str, ttl: Duration) -> Result<Lock> {
        let ttl = self.prepare_lease(key, ttl)?;
        let complete = self.complete(key);
        let grant = self.traced("lock", key, self.backend.lock(&complete, ttl)).await?;
        Ok(Lock::new(self.clone(), key, grant))
    }

    /// Takes the lock on `key` if it is free, and does not wait: `None` if somebody holds it or waits for it.
    ///
    /// # Errors
    /// As [`lock`](Self::lock).
    pub async fn try_lock(&self, key: &str, ttl: Duration) -> Result<Option<Lock>> {
        let ttl = self.prepare_lease(key, ttl)?;
        let complete = self.complete(key);
        let trying = self.backend.try_lock(&complete, ttl);
        let grant: Option<Grant> = self.call("try_lock", key, Idempotence::Once, trying).await?;
        Ok(grant.map(|grant| Lock::new(self.clone(), key, grant)))
    }

    /// Succeeds only if the store can serve now: a cluster has a leader (clause A6).
    ///
    /// # Errors
    /// Those [of every call](Self#errors-of-every-call).
    pub async fn ping(&self) -> Result<()> {
        self.read("ping", "", self.backend.ping()).await
    }

    /// What the store takes and promises; the key length is that which remains below this handle's root.
    pub fn limits(&self) -> Limits {
        Limits { key_bytes: self.key_bytes(), ..self.backend.limits() }
    }

    /// The name of the backend, such as `etcd`.
    pub fn backend_name(&self) -> &'static str {
        self.backend.name()
    }

    /// The root of this handle: empty, or a string that ends in `/`.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// Every write of one key is a transaction with at most one check and one operation.
    async fn write(
        &self,
        verb: &'static str,
        key: &str,
        index: Option<u64>,
        data: Option<Bytes>,
    ) -> Result<Option<u64>> {
        let complete = self.complete_key(key)?;
        if let Some(data) = &data {
            self.check_value(key, data)?;
        }
        let checks = index.map(|index| Check::Index { key: complete.clone(), index }).into_iter().collect();
        let operations = match (data, index) {
            (Some(data), _) => vec![Operation::Set { key: complete, data }],
            // What must not exist need not be deleted.
            (None, Some(0)) => Vec::new(),
            (None, _) => vec![Operation::Delete { key: complete }],
        };
        self.commit(verb, key, Txn { checks, operations }).await
    }

    /// Sends a transaction whose keys and sizes have been checked.
    pub(crate) async fn commit(&self, verb: &'static str, key: &str, txn: Txn) -> Result<Option<u64>> {
        let result = self.call(verb, key, Idempotence::Once, self.backend.commit(txn)).await;
        if let Err(Error::Lost { key }) = &result {
            observability::lease_lost(self.backend.name(), key);
        }
        result
    }

    fn expect_index(&self, verb: &str, key: &str, index: Option<u64>) -> Result<u64> {
        index.ok_or_else(|| {
            self.located(Error::unexpected_answer("the write was applied, but no index came back"), verb, key)
        })
    }

    async fn read<T>(&self, verb: &'static str, key: &str, future: impl Future<Output = Result<T>>) -> Result<T> {
        self.call(verb, key, Idempotence::Repeatable, future).await
    }

    /// Every call to the store but `lock` goes through here, which bounds it by the request timeout.
    pub(crate) async fn call<T>(
        &self,
        verb: &'static str,
        key: &str,
        idempotence: Idempotence,
        future: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        // Pinned here, and boxed below: futures that are handed on by value are copied at each step, timer and all.
        let mut future = std::pin::pin!(future);
        let bounded = async {
            // A store in this process answers at once: it is spared the timer.
            if let Poll::Ready(result) = futures_util::poll!(future.as_mut()) {
                return result;
            }
            Box::pin(tokio::time::timeout(self.timeout, future))
                .await
                .unwrap_or_else(|_elapsed| Err(idempotence.late(self.timeout)))
        };
        self.traced(verb, key, std::pin::pin!(bounded)).await
    }

    /// Runs a call in a span of its own, and wraps its error.
    async fn traced<T>(&self, operation: &'static str, key: &str, call: impl Future<Output = Result<T>>) -> Result<T> {
        let backend = self.backend.name();
        let span = observability::call(operation, backend, key);
        if span.is_disabled() {
            return call.await.map_err(|error| self.located(error, operation, key));
        }
        let result = call.instrument(span.clone()).await.map_err(|error| self.located(error, operation, key));
        observability::done(&span, result.as_ref().map_or_else(Error::outcome, |_| "ok"));
        result
    }

    pub(crate) fn located(&self, error: Error, verb: &str, key: &str) -> Error {
        error.located(self.backend.name(), verb, key, &self.root)
    }

    /// Takes the root off a key that the backend gave.
    pub(crate) fn make_relative(&self, key: &mut String) {
        if !self.root.is_empty() && key.starts_with(&*self.root) {
            key.drain(..self.root.len());
        }
    }

    fn listing(&self, mut snapshot: Snapshot) -> Listing {
        for (key, _) in &mut snapshot.entries {
            self.make_relative(key);
        }
        Listing { values: snapshot.entries.into_iter().collect(), index: snapshot.index }
    }

    fn prepare_lease(&self, key: &str, ttl: Duration) -> Result<Duration> {
        self.check_key(key)?;
        let Limits { min_ttl: min, max_ttl: max, ttl_step, .. } = self.backend.limits();
        if ttl < min || ttl > max {
            return Err(Error::InvalidTtl { ttl, min, max });
        }
        let step = ttl_step.as_nanos().max(1);
        let nanos = ttl.as_nanos().div_ceil(step) * step;
        Ok(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }

    fn check_key(&self, key: &str) -> Result<()> {
        check_key(key, self.key_bytes())
    }

    /// The longest key that this handle takes.
    fn key_bytes(&self) -> usize {
        self.backend.limits().key_bytes.saturating_sub(self.root.len())
    }

    pub(crate) fn check_value(&self, key: &str, data: &Bytes) -> Result<()> {
        let (bytes, max) = (data.len(), self.backend.limits().value_bytes);
        if bytes > max { Err(Error::ValueTooLarge { key: key.to_owned(), bytes, max }) } else { Ok(()) }
    }

    pub(crate) fn complete_key(&self, key: &str) -> Result<String> {
        self.check_key(key)?;
        Ok(self.complete(key).into_owned())
    }

    /// The string that begins everything below a directory: empty, or ending in `/`.
    pub(crate) fn complete_directory(&self, directory: &str) -> Result<String> {
        let bare = check_directory(directory, self.key_bytes())?;
        Ok(if bare.is_empty() { self.root.to_string() } else { format!("{}{bare}/", self.root) })
    }

    fn complete_prefix<'a>(&self, prefix: &'a str) -> Result<Cow<'a, str>> {
        check_prefix(prefix, self.key_bytes())?;
        Ok(self.complete(prefix))
    }

    fn complete<'a>(&self, key: &'a str) -> Cow<'a, str> {
        if self.root.is_empty() { Cow::Borrowed(key) } else { Cow::Owned([&*self.root, key].concat()) }
    }
}

impl std::fmt::Debug for Kv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kv").field("backend", &self.backend.name()).field("root", &self.root).finish_non_exhaustive()
    }
}
