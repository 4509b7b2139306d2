//! The backend: what `kv-core` asks for, by the modules that do it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use kv_core::{
    Address, Backend, Error, EventStream, ExpiryLag, ForeignWrite, Grant, Limits, LockOrder, Result, Snapshot, Txn,
    Value, WatchHistory,
};

use crate::client::Client;
use crate::config::Config;
use crate::error::Failed;
use crate::range::Range;
use crate::watch::{Events, Hub};
use crate::{lease, txn};

/// What the limits of etcd come to: see the table in the crate's documentation.
const LIMITS: Limits = Limits {
    key_bytes: txn::KEY_BYTES,
    value_bytes: txn::VALUE_BYTES,
    txn_ops: txn::TXN_OPS,
    txn_bytes: txn::TXN_BYTES,
    min_ttl: Duration::from_secs(1),
    max_ttl: lease::MAX_TTL,
    ttl_step: Duration::from_secs(1),
    // etcd looks for lapsed leases every half second, and ends each by agreement of the cluster.
    expiry_lag: ExpiryLag { fixed: Duration::from_secs(3), ttls: 0 },
    watch_history: WatchHistory::Every,
    foreign_write: ForeignWrite::Detaches,
    lock_order: LockOrder::Asked,
};

/// An etcd cluster as a backend of [`kv_core::Kv`].
///
/// Usually [`kv_core::connect`] makes one. Dropping the last reference ends its connection and tasks.
pub struct EtcdBackend {
    shared: Arc<Shared>,
}

/// What the backend's handles share: leases outlive the call that granted them.
pub(crate) struct Shared {
    pub(crate) client: Arc<Client>,
    hub: Mutex<Option<Arc<Hub>>>,
}

impl EtcdBackend {
    /// Reads an address with its certificates; connects when the first call needs it.
    ///
    /// # Errors
    /// [`Error::InvalidAddress`], naming the parameter that cannot be used.
    pub fn new(address: &Address) -> Result<Self> {
        let client = Arc::new(Client::new(Config::read(address)?));
        Ok(Self { shared: Arc::new(Shared { client, hub: Mutex::default() }) })
    }
}

impl std::fmt::Debug for EtcdBackend {
    /// Shows neither user nor password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let endpoints: Vec<&str> =
            self.shared.client.config.endpoints.iter().map(|endpoint| endpoint.address.as_str()).collect();
        f.debug_struct("EtcdBackend").field("endpoints", &endpoints).finish_non_exhaustive()
    }
}

impl Shared {
    /// The task that keeps the watches, started when the first watch needs it.
    pub(crate) fn hub(&self) -> Arc<Hub> {
        let mut hub = self.hub.lock().unwrap_or_else(PoisonError::into_inner);
        match &*hub {
            Some(running) if running.is_running() => Arc::clone(running),
            _ => Arc::clone(hub.insert(Arc::new(Hub::start(Arc::clone(&self.client))))),
        }
    }

    async fn watch(&self, prefix: &str, after: u64) -> Result<Events> {
        let range = Range::prefix(prefix);
        // "Now" is what the cluster agrees on: a member that lags would take a watch without a revision to begin
        // with what is already past. It also shows at once if the cluster cannot be reached.
        let after = if after == 0 { self.client.present(&range).await? } else { after };
        self.client.connection().await.map_err(Failed::from)?;
        self.hub().open(range, after).await
    }
}

#[async_trait]
impl Backend for EtcdBackend {
    fn name(&self) -> &'static str {
        crate::REGISTRATION.name
    }

    fn limits(&self) -> Limits {
        LIMITS
    }

    async fn ping(&self) -> Result<()> {
        // As etcd's own health check: a linearizable read needs a leader, and being refused comes after that.
        let request = Range::key("health").request();
        match self.shared.client.call(request).await {
            Err(failed) if !failed.is_permission_denied() => Err(failed.into()),
            _ => Ok(()),
        }
    }

    async fn get(&self, key: &str) -> Result<Value> {
        self.shared.client.get(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Snapshot> {
        self.shared.client.list(prefix).await
    }

    async fn keys(&self, prefix: &str) -> Result<Vec<String>> {
        self.shared.client.keys(prefix).await
    }

    async fn commit(&self, txn: Txn) -> Result<Option<u64>> {
        self.shared.client.commit(txn).await
    }

    async fn watch(&self, prefix: &str, after: u64) -> Result<EventStream> {
        Ok(Box::pin(self.shared.watch(prefix, after).await?))
    }

    async fn observe(&self, prefix: &str) -> Result<(Snapshot, EventStream)> {
        loop {
            let snapshot = self.shared.client.list(prefix).await?;
            match self.shared.watch(prefix, snapshot.index).await {
                // Compacted in between; there is a newer state to begin with.
                Err(Error::Compacted { .. }) => {}
                result => return Ok((snapshot, Box::pin(result?))),
            }
        }
    }

    async fn ephemeral_key(&self, key: &str, ttl: Duration) -> Result<Grant> {
        lease::ephemeral_key(&self.shared.client, key, ttl).await
    }

    async fn lock(&self, key: &str, ttl: Duration) -> Result<Grant> {
        self.shared.lock(key, ttl).await
    }

    async fn try_lock(&self, key: &str, ttl: Duration) -> Result<Option<Grant>> {
        self.shared.try_lock(key, ttl).await
    }
}
