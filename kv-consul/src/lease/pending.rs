//! A lease that has not been handed out yet.

use std::sync::Arc;
use std::time::Duration;

use kv_core::backend::call::Call;
use kv_core::backend::spares::side_by_side;
use kv_core::backend::{Grant, Guard};
use kv_core::{Error, Result};
use tokio::sync::oneshot;
use tokio::time::{sleep, sleep_until};
use tracing::Instrument as _;

use super::owned::ConsulLease;
use super::place::Place;
use super::session::Session;
use crate::api::messages::Operation;
use crate::api::transaction::Outcome;
use crate::shared::Shared;
use crate::transport::callers::Callers;

/// A session that does not hold its entry yet. Dropping it destroys the session in the background.
pub(super) struct PendingLease {
    session: Session,
    /// Another caller had it before.
    is_spare: bool,
}

impl PendingLease {
    /// A session that was kept, or a new one.
    pub(super) async fn get(shared: &Arc<Shared>, ttl: Duration) -> Result<Self> {
        match Self::kept(shared, ttl) {
            Some(spare) => Ok(spare),
            None => Self::create(shared, ttl).await,
        }
    }

    /// A session that another caller no longer needs.
    pub(super) fn kept(shared: &Arc<Shared>, ttl: Duration) -> Option<Self> {
        Some(Self { session: Session::kept(shared, ttl)?, is_spare: true })
    }

    /// Creates the session of a lease.
    pub(super) async fn create(shared: &Arc<Shared>, ttl: Duration) -> Result<Self> {
        let (background, shared) = (&shared.background, shared.clone());
        let (send, created) = oneshot::channel();
        // Nothing that the caller asked for exists before the session does.
        let call = Call::current();
        call.not_sent();
        let callers = Callers::in_background_of(&call);
        // Only the answer contains the session's identifier. So a task waits for it even if the caller gives up. Then
        // the session cannot be sent to the caller, and dropping it destroys it.
        let creating = async move {
            let _ = send.send(Session::create(shared, ttl, &callers).await);
        };
        background.spawn(creating.in_current_span());
        let session = created.await.unwrap_or_else(|_| Err(Error::unavailable("the runtime is shutting down")))?;
        Ok(Self { session, is_spare: false })
    }

    /// The identifier of its session.
    pub(super) fn id(&self) -> &str {
        &self.session.id
    }

    /// Sends the operations that lock an entry for the session.
    ///
    /// A session that was kept is renewed at the same time. `None` if it has ended, and nothing was locked.
    pub(super) async fn attach(&mut self, operations: &[Operation<'_>]) -> Result<Option<Outcome>> {
        if !self.is_spare {
            return self.session.transact(operations).await.map(Some);
        }
        let refused = |outcome: &Result<Outcome>| !matches!(outcome, Ok(Outcome::Applied(_)));
        let (outcome, renewed) =
            side_by_side(Box::pin(self.session.transact(operations)), refused, Box::pin(self.session.renew())).await;
        let outcome = outcome?;
        match renewed {
            Some(Ok(true)) => self.is_spare = false,
            // What it may have locked is gone with it.
            Some(Ok(false)) => return Ok(None),
            // Nothing was locked.
            None => {}
            // Enough of its time to live is left.
            Some(Err(_)) if !self.is_due() => {}
            Some(Err(error)) => {
                return Err(Error::indeterminate("the session could not be renewed").with_source(error));
            }
        }
        Ok(Some(outcome))
    }

    /// Leaves the session to the next caller, because it holds nothing.
    pub(super) fn give_back(self) {
        self.session.give_back();
    }

    /// Waits until a renewal is due, and renews. The next use of the session shows whether that succeeded.
    pub(super) async fn keep_alive(&self) {
        sleep_until(self.session.since().timer() + self.session.ttl / 3).await;
        if !matches!(self.session.renew().await, Ok(true)) {
            sleep(self.session.ttl / 12).await;
        }
    }

    /// Renews if a third of the time to live has passed; false if that failed.
    pub(super) async fn renew_if_due(&self) -> bool {
        !self.is_due() || matches!(self.session.renew().await, Ok(true))
    }

    fn is_due(&self) -> bool {
        self.session.since().elapsed() >= self.session.ttl / 3
    }

    /// Hands out the lease, whose session holds the entry of the place now.
    pub(super) fn grant(self, token: u64, place: Place) -> Grant {
        let Self { session, .. } = self;
        let (ttl, since) = (session.ttl, session.since());
        let guard = Guard { key: place.name.clone(), owner: session.id.clone(), token };
        Grant { lease: Box::new(ConsulLease { session, place, token }), ttl, since, guard }
    }
}
