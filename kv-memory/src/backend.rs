//! The trait [`Backend`] for the store.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kv_core::backend::{Backend, EventStream, Grant, Guard, Operation, Snapshot, Txn};
use kv_core::clock::Moment;
use kv_core::{ExpiryLag, Limits, LockOrder, MemberLeave, Result, Value, WatchHistory};
use tokio::sync::Notify;

use crate::lease::MemoryLease;
use crate::leases::LeaseId;
use crate::options::Options;
use crate::shared::Shared;
use crate::watch::MemoryWatch;

/// An in-memory store. Clones share it.
///
/// [`kv_core::connect`] makes one for a `memory://` address; made by hand, it can be wrapped:
///
/// ```
/// # use std::sync::Arc;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> kv_core::Result<()> {
/// let kv = kv_core::Kv::new(Arc::new(kv_memory::MemoryBackend::new()));
/// kv.set("a", "1").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct MemoryBackend {
    shared: Arc<Shared>,
}

impl MemoryBackend {
    /// Makes an empty store that keeps the last 10,000 events.
    pub fn new() -> Self {
        Self::of(Shared::new(Options::default()))
    }

    pub(crate) fn of(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    fn lease(&self, key: &str, id: LeaseId) -> MemoryLease {
        MemoryLease { shared: self.shared.clone(), key: key.to_owned(), id }
    }
}

impl Default for MemoryBackend {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for MemoryBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.shared.read();
        f.debug_struct("MemoryBackend")
            .field("keys", &state.entries.len())
            .field("revision", &state.revision)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Backend for MemoryBackend {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn limits(&self) -> Limits {
        Limits {
            key_bytes: 4096,
            value_bytes: 1 << 20,
            txn_ops: 128,
            txn_bytes: 8 << 20,
            // Shorter ones lapse between two renewals whenever the machine is busy.
            min_ttl: Duration::from_millis(50),
            max_ttl: Duration::from_secs(365 * 24 * 60 * 60),
            ttl_step: Duration::from_millis(1),
            expiry_lag: ExpiryLag { fixed: Duration::from_secs(1), ttls: 0 },
            watch_history: WatchHistory::Every,
            foreign_write: self.shared.options.foreign_write,
            lock_order: LockOrder::Asked,
            member_leave: MemberLeave::KeepsLeases,
        }
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }

    async fn get(&self, key: &str) -> Result<Value> {
        self.shared.get(key)
    }

    async fn list(&self, prefix: &str) -> Result<Snapshot> {
        Ok(self.shared.list(prefix).await)
    }

    async fn keys(&self, prefix: &str) -> Result<Vec<String>> {
        Ok(self.shared.keys(prefix).await)
    }

    async fn commit(&self, txn: Txn) -> Result<Option<u64>> {
        let txn = owned(txn);
        let trees = self.shared.large_trees(&txn).await;
        let mut deleted = Vec::new();
        let result = self.shared.write().commit(txn, trees, &mut deleted);
        // Here nobody waits for the memory to be freed.
        drop(deleted);
        result
    }

    async fn watch(&self, prefix: &str, after: u64) -> Result<EventStream> {
        Ok(MemoryWatch::open(&self.shared, prefix, after)?.into_stream())
    }

    async fn observe(&self, prefix: &str) -> Result<(Snapshot, EventStream)> {
        loop {
            let snapshot = self.shared.list(prefix).await;
            // Otherwise writers have outrun the history since the snapshot, and a new one is needed.
            if let Ok(watch) = MemoryWatch::open(&self.shared, prefix, snapshot.index) {
                return Ok((snapshot, watch.into_stream()));
            }
        }
    }

    async fn ephemeral_key(&self, key: &str, ttl: Duration) -> Result<Grant> {
        let since = Moment::now();
        let (id, index) = self.shared.write().create_leased(key, ttl, since)?;
        Ok(grant(self.lease(key, id), ttl, since, index))
    }

    async fn lock(&self, key: &str, ttl: Duration) -> Result<Grant> {
        loop {
            let granted = Arc::new(Notify::new());
            let id = self.shared.write().queue(key, ttl, granted.clone(), Moment::now());
            // From here on, dropping this future leaves the queue or frees the lock.
            let lease = self.lease(key, id);
            self.shared.wait(&granted).await;
            let holding = self.shared.read().holding(key, id);
            if let Some(holding) = holding {
                return Ok(grant(lease, ttl, holding.since, holding.token));
            }
            // The lock was granted and lapsed before this task ran, so it queues again.
        }
    }

    async fn try_lock(&self, key: &str, ttl: Duration) -> Result<Option<Grant>> {
        let since = Moment::now();
        let mut state = self.shared.write();
        if state.is_locked(key) {
            return Ok(None);
        }
        let id = state.queue(key, ttl, Arc::new(Notify::new()), since);
        let holding = state.holding(key, id);
        drop(state);
        let lease = self.lease(key, id);
        Ok(holding.map(|holding| grant(lease, ttl, holding.since, holding.token)))
    }
}

/// Copies the values: one may be a small part of a large buffer, which it would keep alive.
fn owned(mut txn: Txn) -> Txn {
    for operation in &mut txn.operations {
        if let Operation::Set { data, .. } = operation {
            *data = Bytes::copy_from_slice(data);
        }
    }
    txn
}

fn grant(lease: MemoryLease, ttl: Duration, since: Moment, token: u64) -> Grant {
    let guard = Guard { key: lease.key.clone(), owner: lease.id.to_string(), token };
    Grant { lease: Box::new(lease), ttl, since, guard }
}
