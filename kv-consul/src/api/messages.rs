//! The JSON messages of Consul's API, with the fields that are used here.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// An entry, as reads return it (<https://developer.hashicorp.com/consul/api-docs/kv>).
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Entry<'a> {
    #[serde(borrow)]
    pub(crate) key: Cow<'a, str>,
    #[serde(default)]
    pub(crate) flags: u64,
    /// Base64; null for an empty value.
    #[serde(default, borrow)]
    pub(crate) value: Option<&'a [u8]>,
    /// The session that holds the lock on it.
    #[serde(default)]
    pub(crate) session: Option<&'a str>,
    pub(crate) create_index: u64,
    pub(crate) modify_index: u64,
}

/// One operation of a transaction (<https://developer.hashicorp.com/consul/api-docs/txn>).
#[derive(Debug, Serialize)]
pub(crate) struct Operation<'a> {
    #[serde(rename = "KV")]
    pub(crate) kv: KvOperation<'a>,
}

/// What an operation does to one key.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct KvOperation<'a> {
    pub(crate) verb: &'static str,
    pub(crate) key: Cow<'a, str>,
    /// Base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) flags: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) index: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) session: Option<&'a str>,
}

/// The answer of a transaction, applied or not.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct TxnAnswer<'a> {
    #[serde(default)]
    pub(crate) results: Option<Vec<TxnResult>>,
    #[serde(default, borrow)]
    pub(crate) errors: Option<Vec<TxnError<'a>>>,
}

/// The entry that an operation wrote or checked. Deletions have none.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) struct TxnResult {
    pub(crate) kv: Option<Indices>,
}

/// The indices of an entry.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Indices {
    pub(crate) modify_index: u64,
}

/// The answer of a transaction that reads.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ReadAnswer<'a> {
    #[serde(borrow)]
    pub(crate) results: Vec<ReadResult<'a>>,
}

/// An entry that was read.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) struct ReadResult<'a> {
    #[serde(borrow)]
    pub(crate) kv: Entry<'a>,
}

/// Why an operation prevented its transaction.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct TxnError<'a> {
    #[serde(default)]
    pub(crate) op_index: usize,
    #[serde(borrow)]
    pub(crate) what: Cow<'a, str>,
}

/// The settings of a new session (<https://developer.hashicorp.com/consul/api-docs/session>).
#[derive(Debug, Serialize)]
pub(crate) struct NewSession<'a> {
    #[serde(rename = "Name")]
    pub(crate) name: &'a str,
    #[serde(rename = "TTL")]
    pub(crate) ttl: String,
    #[serde(rename = "LockDelay")]
    pub(crate) lock_delay: String,
    #[serde(rename = "Behavior")]
    pub(crate) behavior: &'static str,
    /// Empty, because with Consul's default check a session ends when the agent's node is considered dead.
    #[serde(rename = "NodeChecks")]
    pub(crate) node_checks: [&'static str; 0],
    /// The name of the same field before Consul 1.7.
    #[serde(rename = "Checks")]
    pub(crate) checks: [&'static str; 0],
}

/// The session that was created.
#[derive(Debug, Deserialize)]
pub(crate) struct CreatedSession {
    #[serde(rename = "ID")]
    pub(crate) id: String,
}

/// An agent's description of itself (<https://developer.hashicorp.com/consul/api-docs/agent#read-configuration>).
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct AgentSelf {
    pub(crate) config: AgentConfig,
    pub(crate) debug_config: DebugConfig,
}

impl AgentSelf {
    /// False if the servers certainly have no access control. A client agent may not know.
    pub(crate) fn may_have_acls(&self) -> bool {
        !self.config.server || self.debug_config.acls_enabled != Some(false)
    }
}

/// The part of the description that stays the same in every version.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct AgentConfig {
    /// Whether it is a server. Only a server's limits count.
    pub(crate) server: bool,
}

/// The part that may change from version to version.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct DebugConfig {
    #[serde(rename = "SessionTTLMin")]
    pub(crate) session_ttl_min: String,
    #[serde(rename = "ACLsEnabled")]
    pub(crate) acls_enabled: Option<bool>,
    #[serde(rename = "TxnMaxReqLen")]
    pub(crate) txn_max_req_len: usize,
    #[serde(rename = "KVMaxValueSize")]
    pub(crate) kv_max_value_size: usize,
}
