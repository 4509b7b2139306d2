//! Leases with a fault.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kv_core::backend::{Backend as _, Check, Grant, Lease, Operation, Txn};
use kv_core::{Error, Result};

use crate::fault::Fault;
use crate::home::ReleasedAtHome;
use crate::known_locks::lock;
use crate::late::ReleasedLate;
use crate::shared::Shared;

/// Puts a fault of leases into a grant.
pub(crate) fn faulty_grant(fault: Option<Fault>, shared: &Arc<Shared>, mut grant: Grant) -> Grant {
    match fault {
        Some(Fault::TimeRoundedDown) => grant.ttl -= Duration::from_millis(1),
        Some(Fault::ClockTooLate) => grant.since = grant.since + Duration::from_secs(3600),
        Some(Fault::TokenRepeats) => {
            grant.guard.owner = format!("{}@{}", grant.guard.owner, grant.guard.token);
            grant.guard.token = 7;
        }
        _ => {}
    }
    if fault == Some(Fault::LeasesLiveAtHome) {
        return Grant { lease: Box::new(ReleasedAtHome::new(grant.lease)), ..grant };
    }
    if fault == Some(Fault::ReleasesLate) {
        return Grant { lease: Box::new(ReleasedLate::new(grant.lease)), ..grant };
    }
    let Some(fault) = fault else { return grant };
    let (key, token) = (grant.guard.key.clone(), grant.guard.token);
    let lease = FaultyLease { fault, shared: shared.clone(), key, token, lease: Some(grant.lease) };
    Grant { lease: Box::new(lease), ..grant }
}

/// Replaces the tokens that were passed on by those that the store gave.
pub(crate) fn restore_tokens(txn: &mut Txn) {
    for check in &mut txn.checks {
        if let Check::Held(guard) = check
            && let Some((owner, token)) = guard.owner.clone().rsplit_once('@')
        {
            owner.clone_into(&mut guard.owner);
            guard.token = token.parse().unwrap_or_default();
        }
    }
}

struct FaultyLease {
    fault: Fault,
    shared: Arc<Shared>,
    key: String,
    token: u64,
    /// `None` only while it is dropped.
    lease: Option<Box<dyn Lease>>,
}

impl FaultyLease {
    fn lease(&self) -> Result<&dyn Lease> {
        self.lease.as_deref().ok_or_else(|| Error::Lost { key: self.key.clone() })
    }

    async fn write(&self, operation: Operation) -> Result<Option<u64>> {
        self.shared.store.commit(Txn { checks: Vec::new(), operations: vec![operation] }).await
    }
}

#[async_trait]
impl Lease for FaultyLease {
    async fn renew(&self) -> Result<()> {
        match (self.fault, self.lease()?.renew()) {
            (Fault::RenewalDoesNothing, _) => Ok(()),
            (Fault::RenewsAfterLoss, renewing) => {
                let _ = renewing.await;
                Ok(())
            }
            (_, renewing) => renewing.await,
        }
    }

    async fn set(&self, data: Bytes) -> Result<u64> {
        let result = self.lease()?.set(data.clone()).await;
        if self.fault == Fault::WritesAfterLoss && result.is_err() {
            let written = self.write(Operation::Set { key: self.key.clone(), data }).await?;
            return Ok(written.unwrap_or_default());
        }
        result
    }

    async fn release(&self) -> Result<()> {
        if self.fault == Fault::UnlockKeepsIt {
            return Ok(());
        }
        let result = self.lease()?.release().await;
        self.shared.locks.released(&self.key, self.token);
        if self.fault == Fault::DestroysAnothers && result.is_err() {
            self.write(Operation::Delete { key: self.key.clone() }).await?;
            return Ok(());
        }
        result
    }
}

impl Drop for FaultyLease {
    fn drop(&mut self) {
        self.shared.locks.released(&self.key, self.token);
        // Dropping the memory store's lease would free it after all.
        if self.fault == Fault::UnlockKeepsIt
            && let Some(lease) = self.lease.take()
        {
            lock(&self.shared.kept).push(lease);
        }
    }
}
