//! A lease that a caller owns.

use async_trait::async_trait;
use bytes::Bytes;
use kv_core::backend::Lease;
use kv_core::backend::spares::side_by_side;
use kv_core::{Error, Result};

use super::place::Place;
use super::session::Session;
use crate::api::messages::Operation;
use crate::api::transaction::{Outcome, fault};

/// An entry that a session holds.
pub(super) struct ConsulLease {
    pub(super) session: Session,
    pub(super) place: Place,
    /// The index at which the entry was locked.
    pub(super) token: u64,
}

impl ConsulLease {
    async fn renew_session(&self) -> Result<()> {
        if self.session.renew().await? { Ok(()) } else { Err(self.place.lost()) }
    }

    /// Applies an operation, if any, provided that the session still holds the entry.
    async fn guarded(&self, operation: Option<Operation<'_>>) -> Result<Option<u64>> {
        let check = self.place.check(&self.session.id, self.token);
        let operations: Vec<_> = [Some(check), operation].into_iter().flatten().collect();
        match self.session.transact(&operations).await? {
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
        let flags = self.place.flags(&self.session.shared);
        // To lock the entry again writes the value and keeps the session as the holder. A session that has ended holds
        // no entry, so the write needs not wait for the renewal.
        let lock = Operation::lock(&self.place.entry, &self.session.id, &data, flags);
        let (written, renewed) =
            side_by_side(Box::pin(self.guarded(Some(lock))), Result::is_err, Box::pin(self.renew_session())).await;
        match (written?, renewed) {
            (Some(index), Some(Ok(()))) => Ok(index),
            (None, Some(Ok(()))) => Err(Error::unexpected_answer("the write was applied, but no index came back")),
            (_, renewed) => {
                let error = Error::indeterminate("the value was written, but the lease was not renewed");
                Err(match renewed {
                    Some(Err(source)) => error.with_source(source),
                    _ => error,
                })
            }
        }
    }

    async fn release(&self) -> Result<()> {
        let deleted = self.guarded(Some(Operation::delete(&self.place.entry))).await;
        // The caller does not wait for what becomes of the session.
        match &deleted {
            Ok(_) => self.session.give_back(),
            // The session may still hold the entry, which another client has overwritten.
            Err(Error::Lost { .. }) => self.session.end(),
            Err(_) => {}
        }
        deleted.map(drop)
    }
}
