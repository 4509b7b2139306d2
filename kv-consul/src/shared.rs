//! The state that the parts of the backend share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::StatusCode;
use kv_core::backend::Txn;
use kv_core::backend::background::Background;
use kv_core::backend::fate::Idempotence;
use kv_core::backend::spares::Spares;
use kv_core::{Error, Result};

use crate::api::lock::LOCK_FLAGS;
use crate::api::messages::Operation;
use crate::api::transaction::{self, Outcome, explain, index_of, outcome};
use crate::error::{excerpt, size_limit};
use crate::lease::spare::SpareSession;
use crate::settings::{LearntSettings, TXN_OPS};
use crate::transport::callers::Callers;
use crate::transport::client::Client;
use crate::transport::clients::Clients;

/// The state that every part of the backend uses, from any runtime.
pub(crate) struct Shared {
    pub(crate) clients: Arc<Clients>,
    pub(crate) settings: LearntSettings,
    pub(crate) lock_delay: Duration,
    /// The leases that are given back in the background ([clause L12](kv_core::contract::CLAUSES#L12)).
    pub(crate) background: Background,
    /// Sessions that hold nothing, for the next caller.
    pub(crate) spares: Spares<SpareSession>,
    /// The flags of the next write.
    pub(crate) nonce: AtomicU64,
}

impl Shared {
    /// The client of the current runtime.
    pub(crate) fn client(&self) -> Result<Arc<Client>> {
        self.clients.current()
    }

    /// How many requests the current runtime's calls may have in flight at once. It may be asked outside a runtime.
    pub(crate) fn most_in_flight(&self) -> usize {
        self.clients.existing().map_or(1, |client| client.most_calls())
    }

    /// Flags that no other write has. Consul ignores a write that repeats the value and the flags of an entry.
    ///
    /// They have at most 63 bits, because some programs read flags as a signed number.
    pub(crate) fn fresh_flags(&self) -> u64 {
        loop {
            let flags = self.nonce.fetch_add(1, Ordering::Relaxed) & (u64::MAX >> 1);
            if flags != LOCK_FLAGS {
                return flags;
            }
        }
    }

    /// The operations of a transaction.
    pub(crate) fn operations<'a>(&'a self, txn: &'a Txn) -> impl Iterator<Item = Operation<'a>> {
        transaction::operations(txn, || self.fresh_flags())
    }

    /// Applies one transaction with one request.
    pub(crate) async fn commit(&self, txn: &Txn, callers: &Callers) -> Result<Option<u64>> {
        let operations: Vec<_> = self.operations(txn).collect();
        match self.transact_for(callers, &operations).await? {
            Outcome::Applied(index) => Ok(index_of(txn, index)),
            Outcome::Refused(refused) => Err(explain(txn, &refused)),
        }
    }

    /// Sends operations as one transaction, for the call of the current task.
    pub(crate) async fn transact(&self, operations: &[Operation<'_>]) -> Result<Outcome> {
        self.transact_for(&Callers::current(), operations).await
    }

    /// Sends operations as one transaction.
    pub(crate) async fn transact_for(&self, callers: &Callers, operations: &[Operation<'_>]) -> Result<Outcome> {
        let body = serde_json::to_vec(operations)
            .map_err(|error| Error::unexpected_answer("a transaction cannot be written as JSON").with_source(error))?;
        let size = body.len();
        let settings = self.settings.get();
        if size > settings.body_limit {
            let max_bytes = settings.limits.txn_bytes;
            return Err(Error::TxnTooLarge {
                operations: operations.len(),
                bytes: size,
                max_operations: TXN_OPS,
                max_bytes,
            });
        }
        // To Consul a transaction that only checks is a read, and may be stale.
        let (idempotence, consistent) = if operations.iter().all(Operation::is_check) {
            (Idempotence::Repeatable, "consistent")
        } else {
            (Idempotence::Once, "")
        };
        let client = self.client()?;
        let target = client.target("/v1/txn", &[consistent]);
        let answer = client.put_for(callers, target, body.into(), idempotence).await?;
        match answer.status {
            StatusCode::OK | StatusCode::CONFLICT => outcome(&answer),
            StatusCode::PAYLOAD_TOO_LARGE => {
                Err(too_large(operations, size, &excerpt(&answer.body), settings.limits.txn_bytes))
            }
            _ => Err(answer.unexpected()),
        }
    }
}

/// The error for a transaction that the agent found too large. The agent's limits may be lower than when the handle
/// connected, and only its answer contains them.
fn too_large(operations: &[Operation<'_>], size: usize, text: &str, txn_bytes: usize) -> Error {
    let limit = size_limit(text);
    let values = || operations.iter().filter(|operation| operation.value_bytes() > 0);
    let (is_value, largest) = (text.starts_with("Value for key"), values().max_by_key(|one| one.value_bytes()));
    match largest {
        Some(one) if is_value || values().count() == 1 => {
            let bytes = one.value_bytes();
            // The rest of the transaction uses a part of the limit.
            let rest = if is_value { 0 } else { size.saturating_sub(bytes.div_ceil(3) * 4) };
            let fits = |limit: usize| if is_value { limit } else { limit.saturating_sub(rest) / 4 * 3 };
            Error::ValueTooLarge {
                key: one.kv.key.to_string(),
                bytes,
                max: limit.map_or(bytes.saturating_sub(1), fits),
            }
        }
        _ => Error::TxnTooLarge {
            operations: operations.len(),
            bytes: size,
            max_operations: TXN_OPS,
            max_bytes: limit.unwrap_or(txn_bytes),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(key: &str, bytes: usize) -> Operation<'_> {
        Operation::lock(key, "s", &vec![0; bytes], 0)
    }

    #[test]
    fn a_value_that_is_too_large_is_named() {
        let text = r#"Value for key "b" is too large (600 > 512 bytes)"#;
        let error = too_large(&[set("a", 5), set("b", 600)], 900, text, 1 << 20);
        assert!(matches!(error, Error::ValueTooLarge { key, bytes: 600, max: 512 } if key == "b"));
        let text = "Request body(1000 bytes) too large, max size: 600 bytes. See https://consul.io.";
        let error = too_large(&[set("a", 600)], 1000, text, 1 << 20);
        // The value takes 800 bytes of the body, and the rest takes 200.
        assert!(matches!(error, Error::ValueTooLarge { key, bytes: 600, max: 300 } if key == "a"));
    }

    #[test]
    fn a_transaction_that_is_too_large_names_the_limit() {
        let text = "Request body(1000 bytes) too large, max size: 600 bytes.";
        let error = too_large(&[set("a", 300), set("b", 300)], 1000, text, 1 << 20);
        assert!(matches!(error, Error::TxnTooLarge { bytes: 1000, max_bytes: 600, .. }));
    }
}
