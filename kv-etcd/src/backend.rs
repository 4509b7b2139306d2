//! The implementation of the trait `Backend`, which delegates to the other modules.

use std::time::Duration;

use async_trait::async_trait;
use kv_core::backend::{Backend, EventStream, Grant, Snapshot, Txn};
use kv_core::{ExpiryLag, ForeignWrite, Limits, LockOrder, MemberLeave, Result, Value, WatchHistory};

use crate::api::messages::StatusRequest;
use crate::api::range::Range;
use crate::config::{Config, NAME};
use crate::error::{self, Failed};
use crate::lease::{self, ephemeral_key};
use crate::shared::Shared;
use crate::transport::client::{HEALTH, Ping};
use crate::txn;

/// The limits that follow from those of etcd: see the table in the crate's documentation.
const LIMITS: Limits = Limits {
    key_bytes: txn::KEY_BYTES,
    value_bytes: txn::VALUE_BYTES,
    txn_ops: txn::TXN_OPS,
    txn_bytes: txn::TXN_BYTES,
    min_ttl: Duration::from_secs(1),
    max_ttl: lease::MAX_TTL,
    ttl_step: Duration::from_secs(1),
    // etcd looks for lapsed leases every half second, and the cluster has to agree on the end of each.
    expiry_lag: ExpiryLag { fixed: Duration::from_secs(3), ttls: 0 },
    watch_history: WatchHistory::Every,
    foreign_write: ForeignWrite::Detaches,
    lock_order: LockOrder::Asked,
    member_leave: MemberLeave::KeepsLeases,
};

/// An etcd cluster as a backend of [`kv_core::Kv`]. Dropping the last reference ends its connections and tasks.
pub(crate) struct Etcd {
    shared: Shared,
}

impl Etcd {
    /// Makes the backend; the first call connects.
    pub(crate) fn new(config: Config) -> Self {
        Self { shared: Shared::new(config) }
    }
}

#[async_trait]
impl Backend for Etcd {
    fn name(&self) -> &'static str {
        NAME
    }

    fn limits(&self) -> Limits {
        LIMITS
    }

    async fn ping(&self) -> Result<()> {
        let client = &self.shared.client;
        // An early ping that failed is made again, so that it is tried elsewhere.
        let early = client.early_ping().await.map_err(Failed::from)?;
        let status = if let Some(Ping { read: Ok(_), status: Ok(status) }) = early {
            Ok(status)
        } else {
            // As etcd's own health check: a linearizable read needs a leader, and being refused comes after that.
            let read = client.call(Range::key(HEALTH).request());
            let (read, status) = tokio::join!(read, client.call(StatusRequest {}));
            if let Err(failed) = read
                && !failed.is_permission_denied()
            {
                return Err(failed.into());
            }
            status
        };
        // Every member knows of every alarm. Those who may not see the status are not told.
        let alarm = status.ok().and_then(|status| status.errors.into_iter().find(|error| error.contains("NOSPACE")));
        alarm.map_or(Ok(()), |alarm| Err(error::storage_full(&alarm)))
    }

    async fn get(&self, key: &str) -> Result<Value> {
        self.shared.reader.get(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Snapshot> {
        self.shared.reader.list(prefix).await
    }

    async fn keys(&self, prefix: &str) -> Result<Vec<String>> {
        self.shared.reader.keys(prefix).await
    }

    async fn commit(&self, txn: Txn) -> Result<Option<u64>> {
        self.shared.writer.commit(txn).await
    }

    async fn watch(&self, prefix: &str, after: u64) -> Result<EventStream> {
        Ok(Box::pin(self.shared.watch(prefix, after).await?))
    }

    async fn observe(&self, prefix: &str) -> Result<(Snapshot, EventStream)> {
        let (snapshot, watch) = self.shared.observe(prefix).await?;
        Ok((snapshot, Box::pin(watch)))
    }

    async fn ephemeral_key(&self, key: &str, ttl: Duration) -> Result<Grant> {
        ephemeral_key::ephemeral_key(&self.shared.leases, key, ttl).await
    }

    async fn lock(&self, key: &str, ttl: Duration) -> Result<Grant> {
        self.shared.locks.lock(key, ttl).await
    }

    async fn try_lock(&self, key: &str, ttl: Duration) -> Result<Option<Grant>> {
        self.shared.locks.try_lock(key, ttl).await
    }

    async fn close(&self) -> Result<()> {
        self.shared.leases.settled().await;
        Ok(())
    }
}
