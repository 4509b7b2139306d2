//! Connecting: the constructor that the registration names.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use kv_core::backend::background::Background;
use kv_core::backend::backoff::random;
use kv_core::backend::{Address, Backend};
use kv_core::{ExpiryLag, ForeignWrite, Limits, LockOrder, MemberLeave, Result, WatchHistory};

use crate::api::messages::AgentSelf;
use crate::backend::Consul;
use crate::config::Config;
use crate::error::go_duration;
use crate::shared::{OPERATION, Shared, TXN_OPS};
use crate::transport::client::{Client, SMALL};
use crate::transport::clients::Clients;

/// The most bytes of a transaction's JSON, unless the agent is configured otherwise.
const BODY: usize = 512 << 10;

/// The longest key. Consul has no limit of its own; this one keeps every path well below the limit of HTTP servers.
const KEY_BYTES: usize = 4096;

/// Connects to the agents of an address.
pub(crate) async fn connect(address: Address) -> Result<Arc<dyn Backend>> {
    let config = Config::read(&address)?;
    let lock_delay = config.lock_delay;
    // At a generic address any backend may be the right one. This one asks each agent only once, so that the next
    // backend is tried soon.
    let is_sure = matches!(&*address.scheme, "consul" | "consuls");
    let clients = Clients::new(config)?;
    let agent = agent_self(&*clients.current()?, is_sure).await?;
    let (limits, body_limit) = limits(&agent);
    let shared = Shared {
        clients,
        limits,
        body_limit,
        has_acls: agent.may_have_acls(),
        lock_delay,
        background: Background::new(),
        nonce: AtomicU64::new(random()),
    };
    Ok(Arc::new(Consul::new(Arc::new(shared))))
}

/// Reads an agent's configuration. If the token may not read it, or its form is unknown, the defaults apply. `ping`
/// finds out whether the agent serves.
async fn agent_self(client: &Client, is_sure: bool) -> Result<AgentSelf> {
    let target = client.target("/v1/agent/self", &[]);
    let answer = if is_sure { client.get(target, SMALL).await } else { client.ask_once(target).await };
    match answer {
        Ok(answer) => Ok(serde_json::from_slice(&answer.body).unwrap_or_default()),
        Err(error) if error.is_retryable() => Err(error),
        Err(error) => {
            tracing::debug!(%error, "the agent's configuration cannot be read; its defaults are assumed");
            Ok(AgentSelf::default())
        }
    }
}

/// What the store can hold, and the most bytes of a transaction's JSON.
fn limits(agent: &AgentSelf) -> (Limits, usize) {
    let settings = &agent.debug_config;
    // The settings of a client agent do not apply to the servers.
    let server = agent.config.server;
    let body = if server && settings.txn_max_req_len > 0 { settings.txn_max_req_len.min(64 << 20) } else { BODY };
    let value = if server && settings.kv_max_value_size > 0 { settings.kv_max_value_size } else { BODY };
    let min_ttl = go_duration(&settings.session_ttl_min).filter(|ttl| server && !ttl.is_zero());
    let limits = Limits {
        key_bytes: KEY_BYTES,
        // Such a value fits together with the longest key and a check of that key, even if JSON escapes every character
        // of the key.
        value_bytes: decoded(body.saturating_sub(2 * (6 * KEY_BYTES + OPERATION))).min(value),
        txn_ops: TXN_OPS,
        // So many operations fit if no key needs escapes. A transaction that does not fit is refused before it is sent.
        txn_bytes: decoded(body.saturating_sub(TXN_OPS * OPERATION)),
        min_ttl: min_ttl.unwrap_or(Duration::from_secs(10)),
        max_ttl: Duration::from_secs(24 * 60 * 60),
        ttl_step: Duration::from_nanos(1),
        // The server ends a session after twice its time to live.
        expiry_lag: ExpiryLag { fixed: Duration::from_secs(5), ttls: 1 },
        watch_history: WatchHistory::Latest,
        foreign_write: ForeignWrite::Keeps,
        lock_order: LockOrder::PerHandle,
        // A session belongs to the node of its agent, and an agent that leaves takes its node out of the catalog.
        member_leave: MemberLeave::EndsLeases,
    };
    (limits, body)
}

/// The most bytes whose base64 fits into a length.
fn decoded(base64: usize) -> usize {
    base64 / 4 * 3
}

#[cfg(test)]
mod tests {
    use kv_core::backend::{Operation as Write, Txn};

    use super::*;
    use crate::api::messages::{KvOperation, Operation};

    #[test]
    fn the_largest_value_fits_with_the_longest_key() {
        use base64::Engine as _;
        let (limits, body) = limits(&AgentSelf::default());
        let key = "\u{1}".repeat(KEY_BYTES);
        let value = base64::engine::general_purpose::STANDARD.encode(vec![0; limits.value_bytes]);
        let check = Operation::check_index(&key, u64::MAX);
        let set = KvOperation {
            verb: "set",
            key: key.as_str().into(),
            value: Some(value),
            flags: Some(u64::MAX),
            ..KvOperation::default()
        };
        let json = serde_json::to_vec(&[check, Operation { kv: set }]).expect("valid");
        assert!(json.len() <= body, "{} of {body}", json.len());
        assert!(limits.value_bytes > 340 << 10 && limits.txn_bytes >= limits.value_bytes + KEY_BYTES);
    }

    #[test]
    fn the_largest_transaction_fits_whatever_its_parts() {
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
                    key: key.as_str().into(),
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
    fn only_the_settings_of_a_server_count() {
        let json = r#"{"Config":{"Server":true},"DebugConfig":{"SessionTTLMin":"500ms","KVMaxValueSize":1000}}"#;
        let (limits, _) = super::limits(&serde_json::from_str(json).expect("valid"));
        assert_eq!((limits.min_ttl, limits.value_bytes), (Duration::from_millis(500), 1000));
        let (limits, _) = super::limits(&serde_json::from_str(&json.replace("true", "false")).expect("valid"));
        assert_eq!(limits.min_ttl, Duration::from_secs(10));
    }
}
