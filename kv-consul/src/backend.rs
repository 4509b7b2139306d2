//! The backend: what `kv-core` asks for, put together from the other files.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use async_trait::async_trait;
use kv_core::{
    Address, Backend, Error, EventStream, ExpiryLag, ForeignWrite, Grant, Limits, LockOrder, Result, Snapshot, Txn,
    Value, WatchHistory,
};

use crate::batch::Batches;
use crate::blocking::random;
use crate::client::{Client, SMALL};
use crate::config::Config;
use crate::diff::Scope;
use crate::error::go_duration;
use crate::hub::{Hub, Query};
use crate::lock::{self, Turns};
use crate::recent::Recent;
use crate::session;
use crate::wire::AgentSelf;

/// The most operations of a transaction.
pub(crate) const TXN_OPS: usize = 64;

/// The most bytes of a transaction's JSON, unless the agent is configured otherwise.
const BODY: usize = 512 << 10;

/// The longest key that is taken. Consul has no limit of its own; this one keeps every path well below that of HTTP.
const KEY_BYTES: usize = 4096;

/// What JSON adds to one operation at most, its key and value aside.
pub(crate) const OPERATION: usize = 192;

/// What every part of this backend works with.
pub(crate) struct Store {
    pub(crate) client: Arc<Client>,
    pub(crate) limits: Limits,
    /// The most bytes of a transaction's JSON.
    pub(crate) body_limit: usize,
    pub(crate) lock_delay: Duration,
    /// The flags of the next write.
    pub(crate) nonce: AtomicU64,
    pub(crate) batches: Batches,
}

struct Consul {
    store: Arc<Store>,
    hub: Arc<Hub>,
    recent: Recent,
    turns: Turns,
}

/// Connects to the agents that an address names.
pub(crate) async fn connect(address: Address) -> Result<Arc<dyn Backend>> {
    let config = Config::read(&address)?;
    let client = Client::new(&config)?;
    let (limits, body_limit) = limits(&about(&client).await);
    let (nonce, batches) = (AtomicU64::new(random()), Batches::default());
    let store = Store { client: client.clone(), limits, body_limit, lock_delay: config.lock_delay, nonce, batches };
    let (recent, turns) = (Recent::default(), Turns::default());
    Ok(Arc::new(Consul { store: Arc::new(store), hub: Hub::new(client), recent, turns }))
}

/// What an agent tells of itself; nothing, where it may not or cannot. Whether it can serve, `ping` asks.
async fn about(client: &Client) -> AgentSelf {
    match client.get(client.target("/v1/agent/self", &[]), SMALL).await {
        Ok(answer) => serde_json::from_slice(&answer.body).unwrap_or_default(),
        Err(error) => {
            tracing::debug!(%error, "the agent's configuration cannot be read; its defaults are assumed");
            AgentSelf::default()
        }
    }
}

/// What the store takes, and the most bytes of a transaction's JSON.
fn limits(about: &AgentSelf) -> (Limits, usize) {
    let told = &about.debug_config;
    // What a client agent is configured to take says nothing about the servers.
    let server = about.config.server;
    let body = if server && told.txn_max_req_len > 0 { told.txn_max_req_len.min(64 << 20) } else { BODY };
    let value = if server && told.kv_max_value_size > 0 { told.kv_max_value_size } else { BODY };
    let min_ttl = go_duration(&told.session_ttl_min).filter(|ttl| server && !ttl.is_zero());
    let limits = Limits {
        key_bytes: KEY_BYTES,
        // Fits beside the longest key, named in a check as well, even if JSON escapes each of its characters.
        value_bytes: decoded(body.saturating_sub(2 * (6 * KEY_BYTES + OPERATION))).min(value),
        txn_ops: TXN_OPS,
        // Fits if no key needs escaping; what does not is refused before it is sent all the same.
        txn_bytes: decoded(body.saturating_sub(TXN_OPS * OPERATION)),
        min_ttl: min_ttl.unwrap_or(Duration::from_secs(10)),
        max_ttl: Duration::from_secs(24 * 60 * 60),
        ttl_step: Duration::from_nanos(1),
        // The server lets twice the time to live pass.
        expiry_lag: ExpiryLag { fixed: Duration::from_secs(5), ttls: 1 },
        watch_history: WatchHistory::Latest,
        foreign_write: ForeignWrite::Keeps,
        lock_order: LockOrder::PerHandle,
    };
    (limits, body)
}

/// How many bytes fit in base64 of a length.
fn decoded(base64: usize) -> usize {
    base64 / 4 * 3
}

#[async_trait]
impl Backend for Consul {
    fn name(&self) -> &'static str {
        crate::REGISTRATION.name
    }

    fn limits(&self) -> Limits {
        self.store.limits
    }

    async fn ping(&self) -> Result<()> {
        self.store.client.ping().await
    }

    async fn get(&self, key: &str) -> Result<Value> {
        self.store.client.read(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Snapshot> {
        let (snapshot, state) = self.store.client.snapshot(prefix).await?;
        self.recent.remember(prefix, snapshot.index, Arc::new(state));
        Ok(snapshot)
    }

    async fn keys(&self, prefix: &str) -> Result<Vec<String>> {
        self.store.client.children(prefix).await
    }

    async fn commit(&self, txn: Txn) -> Result<Option<u64>> {
        self.store.write(txn).await
    }

    async fn watch(&self, prefix: &str, after: u64) -> Result<EventStream> {
        let base = self.store.client.list(Scope::Prefix(prefix)).await?;
        let older = if after == 0 { None } else { self.recent.recall(prefix, after) };
        // Of what was deleted since then nothing is left to see, so that only that nothing happened can be known.
        if after != 0 && base.index > after && older.is_none() {
            return Err(Error::Compacted { after, oldest: Some(base.index) });
        }
        Ok(Box::pin(self.hub.subscribe(Query::Prefix(prefix.to_owned()), base, after, older)))
    }

    async fn observe(&self, prefix: &str) -> Result<(Snapshot, EventStream)> {
        let base = self.store.client.list(Scope::Prefix(prefix)).await?;
        self.recent.remember(prefix, base.index, base.state.clone());
        let snapshot = Snapshot { entries: base.entries()?, index: base.index };
        let watch = self.hub.subscribe(Query::Prefix(prefix.to_owned()), base, 0, None);
        Ok((snapshot, Box::pin(watch)))
    }

    async fn ephemeral_key(&self, key: &str, ttl: Duration) -> Result<Grant> {
        session::ephemeral_key(&self.store, key, ttl).await
    }

    async fn lock(&self, key: &str, ttl: Duration) -> Result<Grant> {
        lock::lock(&self.store, &self.hub, &self.turns, key, ttl).await
    }

    async fn try_lock(&self, key: &str, ttl: Duration) -> Result<Option<Grant>> {
        lock::try_lock(&self.store, &self.turns, key, ttl).await
    }
}

#[cfg(test)]
mod tests {
    use kv_core::Operation as Write;

    use super::*;
    use crate::wire::{KvOperation, Operation};

    #[test]
    fn the_largest_value_fits_with_the_longest_key() {
        use base64::Engine as _;
        let (limits, body) = limits(&AgentSelf::default());
        let key = "\u{1}".repeat(KEY_BYTES);
        let value = base64::engine::general_purpose::STANDARD.encode(vec![0; limits.value_bytes]);
        let check = Operation::check_index(&key, u64::MAX);
        let set =
            KvOperation { verb: "set", key: &key, value: Some(value), flags: Some(u64::MAX), ..KvOperation::default() };
        let json = serde_json::to_vec(&[check, Operation { kv: set }]).expect("valid");
        assert!(json.len() <= body, "{} of {body}", json.len());
        assert!(limits.value_bytes > 340 << 10 && limits.txn_bytes >= limits.value_bytes + KEY_BYTES);
    }

    #[test]
    fn the_largest_transaction_fits_whatever_it_is_made_of() {
        use base64::Engine as _;
        let (limits, body) = limits(&AgentSelf::default());
        let each = limits.txn_bytes / TXN_OPS;
        for key_bytes in [1, 100, 4096] {
            let key = "k".repeat(key_bytes);
            let write = Write::Set { key: key.clone(), data: vec![0; each - key_bytes].into() };
            let txn = Txn { checks: Vec::new(), operations: vec![write; TXN_OPS] };
            assert!(txn.bytes() <= limits.txn_bytes);
            let value = base64::engine::general_purpose::STANDARD.encode(vec![0; each - key_bytes]);
            let operations = (0..TXN_OPS).map(|_| Operation {
                kv: KvOperation {
                    verb: "set",
                    key: &key,
                    value: Some(value.clone()),
                    flags: Some(u64::MAX),
                    ..KvOperation::default()
                },
            });
            let json = serde_json::to_vec(&operations.collect::<Vec<_>>()).expect("valid");
            assert!(json.len() <= body, "{} of {body} with keys of {key_bytes}", json.len());
        }
    }

    #[test]
    fn what_a_server_tells_counts() {
        let json = r#"{"Config":{"Server":true},"DebugConfig":{"SessionTTLMin":"500ms","KVMaxValueSize":1000}}"#;
        let (told, _) = limits(&serde_json::from_str(json).expect("valid"));
        assert_eq!((told.min_ttl, told.value_bytes), (Duration::from_millis(500), 1000));
        let (told, _) = limits(&serde_json::from_str(&json.replace("true", "false")).expect("valid"));
        assert_eq!(told.min_ttl, Duration::from_secs(10));
    }
}
