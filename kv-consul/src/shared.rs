//! What the parts of the backend share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::StatusCode;
use kv_core::backend::Txn;
use kv_core::backend::background::Background;
use kv_core::backend::fate::Idempotence;
use kv_core::{Error, Limits, Result};
use tokio::time::Instant;

use crate::api::lock::LOCK_FLAGS;
use crate::api::messages::Operation;
use crate::api::transaction::{self, Outcome, explain, index_of, outcome};
use crate::transport::client::Client;
use crate::transport::clients::Clients;

/// The most operations in a transaction.
pub(crate) const TXN_OPS: usize = 64;

/// The most bytes that JSON adds to one operation, besides its key and value.
pub(crate) const OPERATION: usize = 192;

/// What every part of the backend works with, from whatever runtime.
pub(crate) struct Shared {
    pub(crate) clients: Clients,
    pub(crate) limits: Limits,
    /// The most bytes of a transaction's JSON.
    pub(crate) body_limit: usize,
    pub(crate) lock_delay: Duration,
    /// False if it is certain that every token, or none, may do everything.
    pub(crate) has_acls: bool,
    /// What is given back in the background ([clause L12](kv_core::contract)).
    pub(crate) background: Background,
    /// The flags of the next write.
    pub(crate) nonce: AtomicU64,
}

impl Shared {
    /// The client of the current runtime.
    pub(crate) fn client(&self) -> Result<Arc<Client>> {
        self.clients.current()
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

    /// Applies one transaction by one request, for a caller whose time is up at `deadline`.
    pub(crate) async fn commit(&self, txn: &Txn, deadline: Instant) -> Result<Option<u64>> {
        let operations: Vec<_> = self.operations(txn).collect();
        match self.transact_until(&operations, deadline).await? {
            Outcome::Applied(index) => Ok(index_of(txn, index)),
            Outcome::Refused(refused) => Err(explain(txn, &refused)),
        }
    }

    /// Sends operations as one transaction, in the time of an ordinary call.
    pub(crate) async fn transact(&self, operations: &[Operation<'_>]) -> Result<Outcome> {
        self.transact_until(operations, Instant::now() + self.clients.limit()).await
    }

    /// Sends operations as one transaction, for a caller whose time is up at `deadline`.
    pub(crate) async fn transact_until(&self, operations: &[Operation<'_>], deadline: Instant) -> Result<Outcome> {
        let body = serde_json::to_vec(operations)
            .map_err(|error| Error::unexpected_answer("a transaction cannot be written as JSON").with_source(error))?;
        let too_large = |bytes| {
            let (max_operations, max_bytes) = (TXN_OPS, self.limits.txn_bytes);
            Error::TxnTooLarge { operations: operations.len(), bytes, max_operations, max_bytes }
        };
        let size = body.len();
        if size > self.body_limit {
            return Err(too_large(size));
        }
        // To Consul a transaction that only checks is a read, and may be stale.
        let (idempotence, consistent) = if operations.iter().all(Operation::is_check) {
            (Idempotence::Repeatable, "consistent")
        } else {
            (Idempotence::Once, "")
        };
        let client = self.client()?;
        let target = client.target("/v1/txn", &[consistent]);
        let answer = client.put_until(deadline, target, body.into(), idempotence).await?;
        match answer.status {
            StatusCode::OK => outcome(&answer).map_err(|error| match (idempotence, &error) {
                // The status says that the write was applied; the body raises doubts about that.
                (Idempotence::Once, Error::UnexpectedAnswer { context, .. }) => {
                    Error::indeterminate(context.reason.clone()).with_source(error)
                }
                _ => error,
            }),
            StatusCode::CONFLICT => outcome(&answer),
            StatusCode::PAYLOAD_TOO_LARGE => Err(too_large(size)),
            _ => Err(answer.unexpected()),
        }
    }
}
