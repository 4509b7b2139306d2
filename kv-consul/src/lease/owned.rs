//! A lease that a caller owns.

use async_trait::async_trait;
use bytes::Bytes;
use kv_core::backend::Lease;
use kv_core::{Error, Result};

use super::place::Place;
use super::session::Session;
use crate::api::messages::Operation;
use crate::api::transaction::{Outcome, fault};

/// An entry that a session holds.
pub(super) struct ConsulLease {
    pub(super) session: Session,
    pub(super) place: Place,
}

impl ConsulLease {
    async fn renew_session(&self) -> Result<()> {
        if self.session.renew().await? { Ok(()) } else { Err(self.place.lost()) }
    }

    /// Applies an operation, if any, provided that the session still holds the entry.
    async fn guarded(&self, operation: Option<Operation<'_>>) -> Result<Option<u64>> {
        let check = Operation::check_session(&self.place.entry, &self.session.id);
        let operations: Vec<_> = [Some(check), operation].into_iter().flatten().collect();
        match self.session.shared.transact(&operations).await? {
            Outcome::Applied(index) => Ok(index),
            Outcome::Refused(refused) => Err(fault(&refused).unwrap_or_else(|| self.place.lost())),
        }
    }
}

#[async_trait]
impl Lease for ConsulLease {
    async fn renew(&self) -> Result<()> {
        // A session outlives its entry if another client deletes the entry or takes it by force. The renewal and the
        // check of the entry are sent at the same time, so that they take one round trip.
        let (renewed, held) = futures_util::join!(self.renew_session(), self.guarded(None));
        match (renewed, held) {
            (Err(error), _) | (_, Err(error)) if error.is_lost() => Err(error),
            (renewed, held) => renewed.and(held).map(drop),
        }
    }

    async fn set(&self, data: Bytes) -> Result<u64> {
        self.renew_session().await?;
        let flags = self.place.flags(&self.session.shared);
        // Locking the entry again writes the value and keeps the session as the holder.
        let index = self.guarded(Some(Operation::lock(&self.place.entry, &self.session.id, &data, flags))).await?;
        index.ok_or_else(|| Error::unexpected_answer("the write was applied, but no index came back"))
    }

    async fn release(&self) -> Result<()> {
        let deleted = self.guarded(Some(Operation::delete(&self.place.entry))).await;
        if matches!(&deleted, Ok(_) | Err(Error::Lost { .. })) {
            // The entry is gone. Only a session that holds nothing is left.
            if let Err(error) = self.session.destroy().await {
                tracing::debug!(%error, "the session of a released lease could not be destroyed yet");
            }
        }
        deleted.map(drop)
    }
}
