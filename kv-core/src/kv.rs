//! The handle that users hold: every verb, and everything that is the same for every store.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::backend::address::DEFAULT_TIMEOUT;
use crate::backend::fate::Idempotence;
use crate::backend::{Backend, Check, Operation, Snapshot, Txn};
use crate::caller::Caller;
use crate::{EphemeralKey, Error, Limits, Listing, Lock, Result, TxnBuilder, Value, Watch};

/// A key-value store of any kind, from [`connect`](crate::connect). It is cheap to clone and usable from any task.
///
/// Every call but [`lock`](Self::lock) ends within the request timeout (5 s unless the address says otherwise;
/// [clause A6](crate::contract::CLAUSES#A6)). Unless a method says otherwise, dropping its future is harmless for reads
/// and leaves the fate of a write unknown.
///
/// # Runtimes
/// A handle works from any number of tokio runtimes, at once or one after the other
/// ([clause S1](crate::contract::CLAUSES#S1)), also a static one that many tests with a runtime of their own share. A
/// runtime must have time enabled, and IO for a store that is reached over the network. The backend says what else
/// lives on a runtime, and what becomes of it. A call that needs a runtime and is polled outside any panics, and takes
/// nothing.
///
/// # Errors of every call
/// Besides those that a method names: [`Error::Unavailable`] when the store cannot be reached or cannot serve,
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
    caller: Caller,
}

impl Kv {
    /// The request timeout of a handle whose address names none.
    pub const DEFAULT_TIMEOUT: Duration = DEFAULT_TIMEOUT;

    /// Wraps a backend, with no root and the default timeout; [`connect`](crate::connect) does this for addresses.
    pub fn new(backend: Arc<dyn Backend>) -> Self {
        Self { caller: Caller::new(backend, Self::DEFAULT_TIMEOUT) }
    }

    /// The same store with another request timeout.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.caller.timeout = timeout;
        self
    }

    /// The same store below the root of an address, which may be any string and not only a directory.
    pub(crate) fn with_root(mut self, root: &str) -> Self {
        self.caller.root = root.into();
        self
    }

    /// The same store below a directory: every key, in results and events too, is relative to it
    /// ([clause K4](crate::contract::CLAUSES#K4)).
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
        Ok(self.clone().with_root(&self.caller.complete_directory(directory)?))
    }

    /// Reads one key, linearizably ([clause R1](crate::contract::CLAUSES#R1)).
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::InvalidKey`], and those [of every call](Self#errors-of-every-call).
    pub async fn get(&self, key: &str) -> Result<Value> {
        self.caller.check_key(key)?;
        let complete = self.caller.complete(key);
        self.caller.read("get", key, self.caller.backend().get(&complete)).await
    }

    /// Reads every key that begins with `prefix`, as one snapshot; `""` reads everything (clauses
    /// [K2](crate::contract::CLAUSES#K2) and [R2](crate::contract::CLAUSES#R2)).
    ///
    /// # Errors
    /// [`Error::InvalidKey`], and those [of every call](Self#errors-of-every-call).
    pub async fn get_all(&self, prefix: &str) -> Result<Listing> {
        let complete = self.caller.complete_prefix(prefix)?;
        let snapshot = self.caller.read("get_all", prefix, self.caller.backend().list(&complete)).await?;
        Ok(self.listing(snapshot))
    }

    /// Lists the direct children of a directory, sorted; `""` is the root
    /// ([clause R3](crate::contract::CLAUSES#R3)).
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
        let complete = self.caller.complete_directory(directory)?;
        let mut keys = self.caller.read("keys", directory, self.caller.backend().keys(&complete)).await?;
        for key in &mut keys {
            self.caller.make_relative(key);
        }
        keys.sort_unstable();
        Ok(keys)
    }

    /// Sets a key, whether or not it exists, and returns its new index ([clause W1](crate::contract::CLAUSES#W1)).
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

    /// Deletes the key `directory` and everything below it at once, never its siblings
    /// ([clause W4](crate::contract::CLAUSES#W4)).
    ///
    /// `""` deletes everything under the root. A directory that does not exist is no error.
    ///
    /// # Errors
    /// [`Error::InvalidKey`], and those [of every call](Self#errors-of-every-call).
    pub async fn delete_tree(&self, directory: &str) -> Result<()> {
        self.txn().delete_tree(directory).commit_as("delete_tree", directory).await.map(drop)
    }

    /// Compare-and-swap: sets a key only if its index is `value.index`, or, for 0, only if it does not exist
    /// ([clause W2](crate::contract::CLAUSES#W2)). Returns its new index.
    ///
    /// # Errors
    /// [`Error::Conflict`] if the key is in another state, and nothing was changed; [`Error::InvalidKey`],
    /// [`Error::ValueTooLarge`], and those [of every call](Self#errors-of-every-call).
    pub async fn update(&self, key: &str, value: Value) -> Result<u64> {
        let index = self.write("update", key, Some(value.index), Some(value.data)).await?;
        self.expect_index("update", key, index)
    }

    /// Compare-and-delete: deletes a key only if its index is `index` ([clause W3](crate::contract::CLAUSES#W3)).
    ///
    /// With index 0 it succeeds if the key does not exist, and there is nothing to delete.
    ///
    /// # Errors
    /// [`Error::Conflict`] if the key is in another state, and nothing was changed; [`Error::InvalidKey`], and those
    /// [of every call](Self#errors-of-every-call).
    pub async fn remove(&self, key: &str, index: u64) -> Result<()> {
        self.write("remove", key, Some(index), None).await.map(drop)
    }

    /// Begins a transaction: checks and writes that are applied together or not at all
    /// ([clause W5](crate::contract::CLAUSES#W5)).
    pub fn txn(&self) -> TxnBuilder {
        TxnBuilder::new(self.caller.clone())
    }

    /// Watches every key that begins with `prefix` for changes with an index above `after`; 0 means from now on.
    ///
    /// Once this returns, no later event is missed ([clause E1](crate::contract::CLAUSES#E1)). How far `after`
    /// may reach back differs by store: see [`Limits::watch_history`].
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
        let complete = self.caller.complete_prefix(prefix)?;
        let events = self.caller.read("watch", prefix, self.caller.backend().watch(&complete, after)).await?;
        Ok(Watch::new(events, self.caller.clone(), prefix))
    }

    /// Reads every key that begins with `prefix`, and watches from exactly that point on
    /// ([clause E6](crate::contract::CLAUSES#E6)).
    ///
    /// # Errors
    /// [`Error::InvalidKey`], and those [of every call](Self#errors-of-every-call).
    pub async fn observe(&self, prefix: &str) -> Result<(Listing, Watch)> {
        let complete = self.caller.complete_prefix(prefix)?;
        let (snapshot, events) = self.caller.read("observe", prefix, self.caller.backend().observe(&complete)).await?;
        Ok((self.listing(snapshot), Watch::new(events, self.caller.clone(), prefix)))
    }

    /// Creates a key, with an empty value, that vanishes once `ttl` lapses without renewal
    /// ([clause L1](crate::contract::CLAUSES#L1)).
    ///
    /// Other clients may read, list, watch and delete it; a deletion is a loss for the handle. What a plain write by
    /// another client does to it differs by store and stands in [`Limits::foreign_write`]
    /// ([clause L2b](crate::contract::CLAUSES#L2b)). The holder writes through the handle. A lock of the same name is
    /// no key, and neither hinders the other ([clause L10](crate::contract::CLAUSES#L10)).
    ///
    /// If the process ends without [`close`](Self::close), the key stays until its time to live has passed
    /// ([clause L12](crate::contract::CLAUSES#L12)).
    ///
    /// # Errors
    /// [`Error::Conflict`] if the key exists, [`Error::InvalidTtl`], [`Error::InvalidKey`], [`Error::Closed`] if the
    /// handle is closed, and those [of every call](Self#errors-of-every-call).
    pub async fn ephemeral_key(&self, key: &str, ttl: Duration) -> Result<EphemeralKey> {
        let (complete, ttl) = (self.caller.complete_key(key)?, self.caller.check_ttl(ttl)?);
        let place = self.caller.place(&complete, ttl)?;
        let granting = place.take(self.caller.backend().ephemeral_key(&complete, ttl));
        let grant = self.caller.call("ephemeral_key", key, Idempotence::Once, granting).await?;
        EphemeralKey::new(self.caller.clone(), key, grant, place)
    }

    /// Waits for the lock on `key`, as long as it takes, and holds it for `ttl` from its last renewal
    /// ([clause L4](crate::contract::CLAUSES#L4)).
    ///
    /// A lock is no key ([clause L10](crate::contract::CLAUSES#L10)): no read, listing or watch shows it, writes of
    /// `key` do not touch it, and a value at or below `key` does not block it. [`delete_tree`](Self::delete_tree) at or
    /// above `key` ends it. Those who wait are served in turn ([clause L13](crate::contract::CLAUSES#L13)).
    ///
    /// Dropping the future abandons the wait and leaves nothing behind. To limit the wait, use `tokio::time::timeout`.
    ///
    /// If the process ends without [`close`](Self::close), the lock stays taken until its time to live has passed, and
    /// a wait that was given up shortly before may keep its place for as long
    /// ([clause L12](crate::contract::CLAUSES#L12)).
    ///
    /// # Errors
    /// [`Error::InvalidTtl`], [`Error::InvalidKey`], [`Error::Closed`] if the handle is closed or becomes so during the
    /// wait, and those [of every call](Self#errors-of-every-call).
    pub async fn lock(&self, key: &str, ttl: Duration) -> Result<Lock> {
        let (complete, ttl) = (self.caller.complete_key(key)?, self.caller.check_ttl(ttl)?);
        let place = self.caller.place(&complete, ttl)?;
        let waiting = place.take(self.caller.waits(self.caller.backend().lock(&complete, ttl)));
        let grant = self.caller.traced("lock", key, waiting).await?;
        Lock::new(self.caller.clone(), key, grant, place)
    }

    /// Takes the lock on `key` if it is free, without waiting: `None` if anybody holds it or waits for it, through any
    /// handle.
    ///
    /// What [`lock`](Self::lock) says of values, and of the end of the process without [`close`](Self::close), holds
    /// here, too.
    ///
    /// # Errors
    /// As [`lock`](Self::lock).
    pub async fn try_lock(&self, key: &str, ttl: Duration) -> Result<Option<Lock>> {
        let (complete, ttl) = (self.caller.complete_key(key)?, self.caller.check_ttl(ttl)?);
        let place = self.caller.place(&complete, ttl)?;
        let trying = place.take(self.caller.backend().try_lock(&complete, ttl));
        let grant = self.caller.call("try_lock", key, Idempotence::Once, trying).await?;
        grant.map(|grant| Lock::new(self.caller.clone(), key, grant, place)).transpose()
    }

    /// Succeeds only if the store can serve now: a cluster has a leader ([clause A6](crate::contract::CLAUSES#A6)).
    ///
    /// # Errors
    /// Those [of every call](Self#errors-of-every-call).
    pub async fn ping(&self) -> Result<()> {
        self.caller.read("ping", "", self.caller.backend().ping()).await
    }

    /// Pings as part of the call that connects, within the time of that call.
    pub(crate) async fn ping_to_connect(&self) -> Result<()> {
        self.caller.traced("ping", "", self.caller.backend().ping()).await
    }

    /// Gives back everything that this handle and its clones, scoped ones too, hold in the store or wait for
    /// ([clause L12](crate::contract::CLAUSES#L12)): call it before the process or the runtime ends.
    ///
    /// Every lock and ephemeral key is released, and its handle is [`Error::Lost`] from then on; `hold` drops its
    /// future. Calls that wait for a lock end with [`Error::Closed`] and leave no place in the queue. Handles that were
    /// dropped before are being released in the background, and `close` waits for that, too.
    ///
    /// Without it, what is held when the process ends stays taken until its time to live has passed, because the
    /// release that follows a drop needs a runtime that goes on.
    ///
    /// Afterwards [`lock`](Self::lock), [`try_lock`](Self::try_lock) and [`ephemeral_key`](Self::ephemeral_key) are
    /// refused with [`Error::Closed`]. Reads, writes and watches go on working, as they hold nothing in the store.
    /// Closing again is harmless, and tries again to release what is left.
    ///
    /// Dropping the future stops the releases that have not been sent; the handles are lost all the same.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> kv_core::Result<()> {
    /// # let kv = kv_core::Registry::new().with(kv_memory::REGISTRATION).connect("memory://").await?;
    /// let member = kv.ephemeral_key("members/a", Duration::from_secs(15)).await?;
    /// kv.close().await?;
    /// assert!(kv.get("members/a").await.unwrap_err().is_key_not_found());
    /// assert!(member.renew().await.unwrap_err().is_lost());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::LeftToLapse`] if the request timeout has passed, or the store has refused, before everything was given
    /// back. It names the keys that are left to their time to live.
    pub async fn close(&self) -> Result<()> {
        self.caller.traced("close", "", self.caller.close()).await
    }

    /// What the store accepts and promises. The key length is what remains below this handle's root.
    pub fn limits(&self) -> Limits {
        self.caller.limits()
    }

    /// The name of the backend, such as `etcd`.
    pub fn backend_name(&self) -> &'static str {
        self.caller.backend_name()
    }

    /// The root of this handle: empty, or a string that ends in `/`.
    pub fn root(&self) -> &str {
        &self.caller.root
    }

    /// Every write of one key is a transaction with at most one check and one operation.
    async fn write(
        &self,
        verb: &'static str,
        key: &str,
        index: Option<u64>,
        data: Option<Bytes>,
    ) -> Result<Option<u64>> {
        let complete = self.caller.complete_key(key)?;
        if let Some(data) = &data {
            self.caller.check_value(key, data)?;
        }
        let checks = index.map(|index| Check::Index { key: complete.clone(), index }).into_iter().collect();
        let operations = match (data, index) {
            (Some(data), _) => vec![Operation::Set { key: complete, data }],
            // A key that must not exist need not be deleted.
            (None, Some(0)) => Vec::new(),
            (None, _) => vec![Operation::Delete { key: complete }],
        };
        self.caller.commit(verb, key, Txn { checks, operations }).await
    }

    fn expect_index(&self, verb: &str, key: &str, index: Option<u64>) -> Result<u64> {
        index.ok_or_else(|| {
            self.caller.located(Error::unexpected_answer("the write was applied, but no index came back"), verb, key)
        })
    }

    fn listing(&self, mut snapshot: Snapshot) -> Listing {
        for (key, _) in &mut snapshot.entries {
            self.caller.make_relative(key);
        }
        Listing { values: snapshot.entries.into_iter().collect(), index: snapshot.index }
    }
}

impl std::fmt::Debug for Kv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kv")
            .field("backend", &self.caller.backend_name())
            .field("root", &self.caller.root)
            .finish_non_exhaustive()
    }
}
