//! What a store can hold: the limits that the agent's configuration tells.

use std::sync::OnceLock;
use std::time::Duration;

use kv_core::{ExpiryLag, ForeignWrite, Limits, LockOrder, MemberLeave, WatchHistory};

use crate::api::messages::AgentSelf;
use crate::error::go_duration;

/// The most operations in a transaction.
pub(crate) const TXN_OPS: usize = 64;

/// The most bytes that JSON adds to one operation, besides its key and value.
pub(crate) const OPERATION: usize = 192;

/// The most bytes of a transaction's JSON, unless the agent is configured otherwise.
const BODY: usize = 512 << 10;

/// The longest key. Consul has no limit of its own; this one keeps every path well below the limit of HTTP servers.
const KEY_BYTES: usize = 4096;

/// What the agent's configuration tells.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) limits: Limits,
    /// The most bytes of a transaction's JSON.
    pub(crate) body_limit: usize,
    /// False if it is certain that every token, or none, may do everything.
    pub(crate) has_acls: bool,
}

impl Settings {
    fn new(agent: &AgentSelf) -> Self {
        let (limits, body_limit) = limits(agent);
        Self { limits, body_limit, has_acls: agent.may_have_acls() }
    }
}

/// The settings of the agent that was connected to: Consul's defaults until they are known.
#[derive(Debug)]
pub(crate) struct LearntSettings {
    defaults: Settings,
    learnt: OnceLock<Settings>,
}

impl LearntSettings {
    /// Those of an agent whose configuration is known, or is still to be read.
    pub(crate) fn new(agent: Option<&AgentSelf>) -> Self {
        let learnt = agent.map(|agent| OnceLock::from(Settings::new(agent))).unwrap_or_default();
        Self { defaults: Settings::new(&AgentSelf::default()), learnt }
    }

    pub(crate) fn get(&self) -> &Settings {
        self.learnt.get().unwrap_or(&self.defaults)
    }

    pub(crate) fn are_known(&self) -> bool {
        self.learnt.get().is_some()
    }

    /// Notes an agent's configuration. The first one counts: limits do not change under a handle.
    pub(crate) fn learn(&self, agent: &AgentSelf) {
        let _ = self.learnt.set(Settings::new(agent));
    }
}

/// What the store can hold, and the most bytes of a transaction's JSON.
fn limits(agent: &AgentSelf) -> (Limits, usize) {
    let settings = &agent.debug_config;
    // The settings of a client agent say nothing about the servers.
    let server = agent.config.server;
    let body = if server && settings.txn_max_req_len > 0 { settings.txn_max_req_len.min(64 << 20) } else { BODY };
    let value = if server && settings.kv_max_value_size > 0 { settings.kv_max_value_size } else { BODY };
    let min_ttl = go_duration(&settings.session_ttl_min).filter(|ttl| server && !ttl.is_zero());
    let limits = Limits {
        key_bytes: KEY_BYTES,
        // Fits together with the longest key and a check of that key, even if JSON escapes every character of the key.
        value_bytes: decoded(body.saturating_sub(2 * (6 * KEY_BYTES + OPERATION))).min(value),
        txn_ops: TXN_OPS,
        // Fits if no key needs escapes. A transaction that does not fit after all is refused before it is sent.
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

/// How many bytes fit into base64 of a length.
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
