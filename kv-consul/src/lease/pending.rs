//! A lease that has not been handed out yet.

use std::sync::Arc;
use std::time::Duration;

use kv_core::backend::{Grant, Guard};
use kv_core::{Error, Result};
use tokio::sync::oneshot;
use tokio::time::{sleep, sleep_until};
use tracing::Instrument as _;

use super::owned::{ConsulLease, Use};
use super::session::Session;
use crate::shared::Shared;

/// A session whose key it does not hold yet. Dropping it destroys the session in the background.
pub(super) struct PendingLease {
    session: Session,
    key: String,
}

impl PendingLease {
    /// Creates the session of a lease on `key`.
    pub(super) async fn create(shared: &Arc<Shared>, key: &str, ttl: Duration) -> Result<Self> {
        let (shared, name) = (shared.clone(), key.to_owned());
        let (send, created) = oneshot::channel();
        // Only the answer tells the session's identifier. So a task waits for it even if the caller gives up; then the
        // session cannot be sent to the caller, is dropped, and is destroyed by that.
        let creating = async move {
            let _ = send.send(Session::create(shared, &name, ttl).await);
        };
        tokio::spawn(creating.in_current_span());
        let session = created.await.unwrap_or_else(|_| Err(Error::unavailable("the runtime is shutting down")))?;
        Ok(Self { session, key: key.to_owned() })
    }

    /// The identifier of its session.
    pub(super) fn id(&self) -> &str {
        &self.session.id
    }

    /// Waits until a renewal is due, and renews. Whether that worked shows in the next use of the session.
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

    /// Hands out the lease, whose session holds the key now.
    pub(super) fn grant(self, token: u64, use_: Use) -> Grant {
        let Self { session, key } = self;
        let (ttl, since) = (session.ttl, session.since());
        let guard = Guard { key: key.clone(), owner: session.id.clone(), token };
        Grant { lease: Box::new(ConsulLease { session, key, use_ }), ttl, since, guard }
    }
}
