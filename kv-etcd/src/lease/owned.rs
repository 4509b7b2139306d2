//! The lease behind a lock or an ephemeral key that was handed out (clauses [L2](kv_core::contract::CLAUSES#L2) and
//! [L7](kv_core::contract::CLAUSES#L7)).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kv_core::backend::Lease;
use kv_core::clock::Moment;
use kv_core::{Error, Result};

use super::leases::Leases;
use super::unused::State;
use crate::api::compare::owned_by;
use crate::api::messages::{Compare, DeleteRangeRequest, PutRequest, RangeRequest, Request, TxnRequest};
use crate::api::range::revision;

/// A lease and the one key on it.
pub(super) struct EtcdLease {
    pub(super) leases: Arc<Leases>,
    pub(super) id: i64,
    /// The time to live that was asked for, and the one that was granted.
    pub(super) asked: Duration,
    pub(super) ttl: Duration,
    /// When the last successful renewal began.
    pub(super) since: Mutex<Moment>,
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
        let began = Moment::now();
        if !self.leases.keep_alive.renew(self.id).await? {
            return Err(self.lost());
        }
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        *since = began.max(*since);
        Ok(())
    }

    /// When the last renewal began.
    fn renewed(&self) -> Moment {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner)
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
        let put = PutRequest { key: self.owner.clone(), value: data, lease: self.id };
        let request =
            TxnRequest { compare: self.ownership(), success: vec![Request::Put(put).into()], failure: Vec::new() };
        // A lease that has lapsed takes no key, so the write needs not wait for the renewal.
        let (written, renewed) = self.leases.call_renewing(request, self.keep_alive()).await;
        match written {
            Ok(answer) if answer.succeeded => match renewed {
                Some(Err(error)) => {
                    let why = "the value was written, but the lease was not renewed";
                    Err(Error::indeterminate(why).with_source(error))
                }
                _ => Ok(revision(answer.header.as_ref())?),
            },
            Ok(_) => Err(self.lost()),
            Err(failed) if failed.is_lease_not_found() => Err(self.lost()),
            Err(failed) => Err(failed.into()),
        }
    }

    async fn release(&self) -> Result<()> {
        let delete = DeleteRangeRequest { key: self.owner.clone(), ..DeleteRangeRequest::default() };
        let request = TxnRequest {
            compare: self.ownership(),
            success: vec![Request::DeleteRange(delete).into()],
            failure: Vec::new(),
        };
        let answer = self.leases.client.call(request).await?;
        // The caller does not wait for what becomes of the lease, since nothing lives on it any more.
        let lease = self.leases.unused(self.id, self.ttl, State::Granted);
        if answer.succeeded {
            if self.renewed().elapsed() < self.ttl / 3 {
                self.leases.keep(self.asked, lease);
            }
            return Ok(());
        }
        // Revoking the lease removes only keys that are attached to it, so none of another client's.
        drop(lease);
        Err(self.lost())
    }
}
