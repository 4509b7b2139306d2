//! A lease that has not been handed out yet.

use std::sync::Arc;
use std::time::Duration;

use kv_core::backend::call::Call;
use kv_core::backend::{Grant, Guard};
use kv_core::{Error, Result};
use tokio::sync::oneshot;
use tokio::time::{sleep, sleep_until};
use tracing::Instrument as _;

use super::owned::ConsulLease;
use super::place::Place;
use super::session::Session;
use crate::shared::Shared;
use crate::transport::callers::Callers;

/// A session that does not hold its entry yet. Dropping it destroys the session in the background.
pub(super) struct PendingLease {
    session: Session,
}

impl PendingLease {
    /// Creates the session of a lease.
    pub(super) async fn create(shared: &Arc<Shared>, place: &Place, ttl: Duration) -> Result<Self> {
        let (background, shared, name) = (&shared.background, shared.clone(), place.name.clone());
        let (send, created) = oneshot::channel();
        // Nothing that the caller asked for exists before the session does.
        let call = Call::current();
        call.not_sent();
        let callers = Callers::in_background_of(&call);
        // Only the answer contains the session's identifier. So a task waits for it even if the caller gives up. Then
        // the session cannot be sent to the caller, and dropping it destroys it.
        let creating = async move {
            let _ = send.send(Session::create(shared, &name, ttl, &callers).await);
        };
        background.spawn(creating.in_current_span());
        let session = created.await.unwrap_or_else(|_| Err(Error::unavailable("the runtime is shutting down")))?;
        Ok(Self { session })
    }

    /// The identifier of its session.
    pub(super) fn id(&self) -> &str {
        &self.session.id
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
        let is_due = self.session.since().elapsed() >= self.session.ttl / 3;
        !is_due || matches!(self.session.renew().await, Ok(true))
    }

    /// Hands out the lease, whose session holds the entry of the place now.
    pub(super) fn grant(self, token: u64, place: Place) -> Grant {
        let Self { session } = self;
        let (ttl, since) = (session.ttl, session.since());
        let guard = Guard { key: place.name.clone(), owner: session.id.clone(), token };
        Grant { lease: Box::new(ConsulLease { session, place }), ttl, since, guard }
    }
}
