//! A session, which is what Consul gives a time to live.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use kv_core::backend::fate::Idempotence;
use kv_core::clock::Moment;
use kv_core::{Error, Result};
use serde::de::IgnoredAny;

use super::spare::SpareSession;
use crate::api::messages::{CreatedSession, NewSession, Operation};
use crate::api::transaction::Outcome;
use crate::error::ttl_bounds;
use crate::shared::Shared;
use crate::transport::callers::Callers;
use crate::transport::client::SMALL;

/// What the sessions are called. They pass from one key or lock to the next, so the name names none of them.
const NAME: &str = "kv lease";

/// The longest identifier of a session that is accepted. Consul's have 36 characters.
const ID_BYTES: usize = 64;

/// A session that only its owner uses. Dropping it destroys it in the background.
pub(super) struct Session {
    pub(super) shared: Arc<Shared>,
    pub(super) id: String,
    pub(super) ttl: Duration,
    /// When the last successful request that created or renewed it was sent.
    since: Mutex<Moment>,
    /// How many requests may still change something in its name. One of unknown outcome stays among them.
    unsettled: AtomicUsize,
    given_back: AtomicBool,
}

impl Session {
    /// A session that another caller no longer needs; it may have ended meanwhile.
    pub(super) fn kept(shared: &Arc<Shared>, ttl: Duration) -> Option<Self> {
        let spare = shared.spares.take(ttl)?;
        let since = spare.since;
        Some(Self::new(Arc::clone(shared), spare.into_id()?, ttl, since))
    }

    /// Creates a session for a lease on a key or lock.
    ///
    /// It has no health check, so that only the time to live ends it. What it holds is deleted with it.
    pub(super) async fn create(shared: Arc<Shared>, ttl: Duration, callers: &Callers) -> Result<Self> {
        let body = serde_json::to_vec(&NewSession {
            name: NAME,
            ttl: go_text(ttl),
            lock_delay: go_text(shared.lock_delay),
            behavior: "delete",
            node_checks: [],
            checks: [],
        });
        let body = body.map_err(|error| Error::unexpected_answer("a session cannot be JSON").with_source(error))?;
        let since = Moment::now();
        let client = shared.client()?;
        let target = client.target("/v1/session/create", &[]);
        let answer =
            client.put_for(callers, target, body.into(), Idempotence::Once).await.map_err(|error| match &error {
                Error::UnexpectedAnswer { context, .. } => match ttl_bounds(&context.reason) {
                    Some((min, max)) => Error::InvalidTtl { ttl, min, max },
                    None => error,
                },
                _ => error,
            })?;
        if answer.status != StatusCode::OK {
            return Err(answer.unexpected());
        }
        let CreatedSession { id } = answer.json()?;
        // The identifier becomes part of paths.
        if id.is_empty() || id.len() > ID_BYTES || !id.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-') {
            return Err(answer.unexpected());
        }
        Ok(Self::new(shared, id, ttl, since))
    }

    fn new(shared: Arc<Shared>, id: String, ttl: Duration, since: Moment) -> Self {
        Self {
            shared,
            id,
            ttl,
            since: Mutex::new(since),
            unsettled: AtomicUsize::new(0),
            given_back: AtomicBool::new(false),
        }
    }

    /// Sends operations as one transaction in the name of the session.
    pub(super) async fn transact(&self, operations: &[Operation<'_>]) -> Result<Outcome> {
        self.unsettled.fetch_add(1, Ordering::Relaxed);
        let result = self.shared.transact(operations).await;
        // It is over, unless it may arrive later. The same goes for one whose future is dropped.
        if !matches!(result, Err(Error::Indeterminate { .. })) {
            self.unsettled.fetch_sub(1, Ordering::Relaxed);
        }
        result
    }

    /// Restarts the time to live; returns `false` if the session has ended.
    pub(super) async fn renew(&self) -> Result<bool> {
        let began = Moment::now();
        let client = self.shared.client()?;
        let target = client.target(&format!("/v1/session/renew/{}", self.id), &[]);
        let answer = client.put(target, Bytes::new(), Idempotence::Repeatable).await?;
        match answer.status {
            StatusCode::OK => {
                *self.since.lock().unwrap_or_else(PoisonError::into_inner) = began;
                Ok(true)
            }
            // A renewal is not a consistent read: a new leader answers from what it has applied so far, which may lack
            // the latest commits. A consistent read of the session does not.
            StatusCode::NOT_FOUND if contains(&answer.body, b"not found") && self.exists().await? => {
                Err(Error::unavailable("a new leader does not know the session yet"))
            }
            StatusCode::NOT_FOUND if contains(&answer.body, b"not found") => Ok(false),
            _ => Err(answer.unexpected()),
        }
    }

    async fn exists(&self) -> Result<bool> {
        let client = self.shared.client()?;
        let target = client.target(&format!("/v1/session/info/{}", self.id), &["consistent"]);
        let answer = client.get(target, SMALL).await?;
        if answer.status != StatusCode::OK {
            return Err(answer.unexpected());
        }
        let found: Option<Vec<IgnoredAny>> = answer.json()?;
        Ok(found.is_some_and(|found| !found.is_empty()))
    }

    /// When the time to live last began.
    pub(super) fn since(&self) -> Moment {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves the session, which holds nothing, to the next caller; or ends it, if a request that is still on its way
    /// could lock something in its name.
    pub(super) fn give_back(&self) {
        let Some(spare) = self.spare() else { return };
        if self.unsettled.load(Ordering::Relaxed) == 0 {
            self.shared.spares.keep(self.ttl, spare);
        }
    }

    /// Ends the session in the background, with all that it holds.
    pub(super) fn end(&self) {
        drop(self.spare());
    }

    fn spare(&self) -> Option<SpareSession> {
        let is_first = !self.given_back.swap(true, Ordering::Relaxed);
        let Shared { clients, background, .. } = &*self.shared;
        is_first.then(|| SpareSession::new(clients, background, self.id.clone(), self.since()))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Destroys it, unless it was given back before.
        drop(self.spare());
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// A duration as Go reads it.
fn go_text(duration: Duration) -> String {
    if duration.subsec_nanos() == 0 { format!("{}s", duration.as_secs()) } else { format!("{}ns", duration.as_nanos()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_exactly() {
        assert_eq!(go_text(Duration::from_secs(15)), "15s");
        assert_eq!(go_text(Duration::ZERO), "0s");
        assert_eq!(go_text(Duration::from_millis(10_500)), "10500000000ns");
    }
}
