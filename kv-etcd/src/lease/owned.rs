//! The lease behind a lock or an ephemeral key that was handed out (clauses [L2](kv_core::contract::CLAUSES#L2) and
//! [L7](kv_core::contract::CLAUSES#L7)).

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use kv_core::backend::Lease;
use kv_core::{Error, Result};

use super::leases::Leases;
use crate::api::compare::owned_by;
use crate::api::messages::{Compare, LeaseRevokeRequest, PutRequest, RangeRequest, Request, TxnRequest};
use crate::api::range::revision;

/// A lease and the one key on it.
pub(super) struct EtcdLease {
    pub(super) leases: Arc<Leases>,
    pub(super) id: i64,
    /// The caller's name for it.
    pub(super) key: String,
    /// The key that is attached to the lease.
    pub(super) owner: Bytes,
    /// The revision that created the key. A later key of the same name has another one.
    pub(super) token: u64,
}

impl EtcdLease {
    fn lost(&self) -> Error {
        Error::Lost { key: self.key.clone() }
    }

    /// Comparisons that hold if the key is the one that was created with this lease, and is still attached to it.
    fn ownership(&self) -> Vec<Compare> {
        owned_by(&self.owner, self.token, self.id)
    }

    /// `Lost` if the key is gone or no longer attached to this lease.
    async fn check(&self) -> Result<()> {
        let read = RangeRequest { key: self.owner.clone(), keys_only: true, ..RangeRequest::default() };
        let request = TxnRequest {
            compare: self.ownership(),
            // A member evaluates comparisons alone on its own state, which may be old. With a read in the transaction,
            // it catches up first.
            success: vec![Request::Range(read).into()],
            failure: Vec::new(),
        };
        if self.leases.client.call(request).await?.succeeded { Ok(()) } else { Err(self.lost()) }
    }

    async fn keep_alive(&self) -> Result<()> {
        if self.leases.keep_alive.renew(self.id).await? { Ok(()) } else { Err(self.lost()) }
    }
}

#[async_trait]
impl Lease for EtcdLease {
    async fn renew(&self) -> Result<()> {
        // If another client deletes or overwrites the key, the lease is still alive, so the key is checked, too.
        let (alive, owned) = tokio::join!(self.keep_alive(), self.check());
        owned.and(alive)
    }

    async fn set(&self, data: Bytes) -> Result<u64> {
        self.keep_alive().await?;
        let put = PutRequest { key: self.owner.clone(), value: data, lease: self.id };
        let request =
            TxnRequest { compare: self.ownership(), success: vec![Request::Put(put).into()], failure: Vec::new() };
        match self.leases.client.call(request).await {
            Ok(answer) if answer.succeeded => Ok(revision(answer.header.as_ref())?),
            Ok(_) => Err(self.lost()),
            Err(failed) if failed.is_lease_not_found() => Err(self.lost()),
            Err(failed) => Err(failed.into()),
        }
    }

    async fn release(&self) -> Result<()> {
        let owned = self.check().await;
        if matches!(&owned, Err(error) if !error.is_lost()) {
            return owned;
        }
        // Revoking the lease removes only keys that are attached to it, so none of another client's.
        match self.leases.client.call(LeaseRevokeRequest { id: self.id }).await {
            Ok(_) => owned,
            Err(failed) if failed.is_lease_not_found() => Err(self.lost()),
            Err(_) if owned.is_err() => owned,
            Err(failed) => Err(failed.into()),
        }
    }
}
