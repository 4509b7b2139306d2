//! A lease that a caller owns.

use async_trait::async_trait;
use bytes::Bytes;
use kv_core::backend::Lease;
use kv_core::{Error, Result};

use super::session::Session;
use crate::api::messages::{LOCK_FLAGS, Operation};
use crate::api::transaction::{Outcome, fault};

/// What a lease is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    EphemeralKey,
    Lock,
}

/// A key that a session holds.
pub(super) struct ConsulLease {
    pub(super) session: Session,
    pub(super) key: String,
    pub(super) use_: Use,
}

impl ConsulLease {
    fn lost(&self) -> Error {
        Error::Lost { key: self.key.clone() }
    }

    async fn renew_session(&self) -> Result<()> {
        if self.session.renew().await? { Ok(()) } else { Err(self.lost()) }
    }

    /// Applies an operation, if any, provided that the session still holds the key.
    async fn guarded(&self, operation: Option<Operation<'_>>) -> Result<Option<u64>> {
        let check = Operation::check_session(&self.key, &self.session.id);
        let operations: Vec<_> = [Some(check), operation].into_iter().flatten().collect();
        match self.session.shared.transact(&operations).await? {
            Outcome::Applied(index) => Ok(index),
            Outcome::Refused(refused) => Err(fault(&refused).unwrap_or_else(|| self.lost())),
        }
    }
}

#[async_trait]
impl Lease for ConsulLease {
    async fn renew(&self) -> Result<()> {
        self.renew_session().await?;
        // A session outlives its key if somebody deletes the key or takes it by force.
        self.guarded(None).await.map(drop)
    }

    async fn set(&self, data: Bytes) -> Result<u64> {
        self.renew_session().await?;
        let flags = match self.use_ {
            Use::EphemeralKey => self.session.shared.fresh_flags(),
            Use::Lock => LOCK_FLAGS,
        };
        // To lock the key again writes the value and keeps the session as the holder.
        let index = self.guarded(Some(Operation::lock(&self.key, &self.session.id, &data, flags))).await?;
        index.ok_or_else(|| Error::unexpected_answer("the write was applied, but no index came back"))
    }

    async fn release(&self) -> Result<()> {
        let deleted = self.guarded(Some(Operation::delete(&self.key))).await;
        if matches!(&deleted, Ok(_) | Err(Error::Lost { .. })) {
            // The key is free by now; only a session that holds nothing is left.
            if let Err(error) = self.session.destroy().await {
                tracing::debug!(%error, "the session of a released lease could not be destroyed yet");
            }
        }
        deleted.map(drop)
    }
}
