//! Ephemeral keys (clauses [L1](kv_core::contract::CLAUSES#L1) to [L3](kv_core::contract::CLAUSES#L3)).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kv_core::backend::Grant;
use kv_core::{Error, Result};

use super::leases::Leases;
use super::pending::PendingLease;
use crate::api::compare::absent;
use crate::api::messages::{PutRequest, Request, TxnRequest};
use crate::api::range::{Range, revision};

/// Creates a key that lives on a lease of its own.
pub(crate) async fn ephemeral_key(leases: &Arc<Leases>, key: &str, ttl: Duration) -> Result<Grant> {
    let mut pending = PendingLease::get(leases, ttl).await?;
    let create = |lease| TxnRequest {
        compare: vec![absent(Range::key(key))],
        success: vec![Request::Put(PutRequest { key: Range::key(key).key, value: Bytes::new(), lease }).into()],
        failure: Vec::new(),
    };
    let answer = pending.attach(create).await?;
    if answer.succeeded {
        let token = revision(answer.header.as_ref())?;
        return Ok(pending.hand_over(key, key, token));
    }
    pending.keep();
    Err(Error::conflict(key, 0))
}
