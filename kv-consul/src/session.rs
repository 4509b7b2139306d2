//! Sessions, which are Consul's times to live, and the leases that stand on them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use hyper::StatusCode;
use kv_core::{Error, Grant, Guard, Lease, Result};
use serde::de::IgnoredAny;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::backend::Store;
use crate::client::SMALL;
use crate::error::{Kind, Refusal, ttl_bounds};
use crate::read::unexpected;
use crate::txn::{Outcome, Refused, fault};
use crate::wire::{CreatedSession, LOCK_FLAGS, NewSession, Operation};

/// A session that nobody else knows of; dropping it destroys it in the background.
pub(crate) struct Session {
    store: Arc<Store>,
    pub(crate) id: String,
    pub(crate) ttl: Duration,
    /// When the request that made it, or the last that renewed it, began.
    since: Mutex<Instant>,
    open: AtomicBool,
}

impl Session {
    /// Makes a session for a lease on `key`.
    ///
    /// No health check is part of it, so that its time to live alone ends it; its key is deleted with it.
    pub(crate) async fn create(store: &Arc<Store>, key: &str, ttl: Duration) -> Result<Self> {
        let body = serde_json::to_vec(&NewSession {
            name: &format!("kv lease on {key}"),
            ttl: go_text(ttl),
            lock_delay: go_text(store.lock_delay),
            behavior: "delete",
            node_checks: [],
            checks: [],
        });
        let body = body.map_err(|error| Error::unexpected_answer("a session that is no JSON").with_source(error))?;
        let store = store.clone();
        let (send, created) = oneshot::channel();
        // Its identifier is known from the answer alone, so the answer is waited for even when nobody else does any
        // more: what cannot be sent then is dropped, and that destroys it.
        let creating = async move {
            let _ = send.send(Self::request(store, body, ttl).await);
        };
        tokio::spawn(creating.in_current_span());
        created.await.unwrap_or_else(|_| Err(Error::unavailable("the runtime is shutting down")))
    }

    async fn request(store: Arc<Store>, body: Vec<u8>, ttl: Duration) -> Result<Self> {
        let since = Instant::now();
        let target = store.client.target("/v1/session/create", &[]);
        let answer = store.client.put(target, body.into(), Kind::Once).await.map_err(|error| match &error {
            Error::UnexpectedAnswer { context, .. } => match ttl_bounds(&context.reason) {
                Some((min, max)) => Error::InvalidTtl { ttl, min, max },
                None => error,
            },
            _ => error,
        })?;
        if answer.status != StatusCode::OK {
            return Err(unexpected(&answer));
        }
        let created: CreatedSession =
            serde_json::from_slice(&answer.body).map_err(|error| unexpected(&answer).with_source(error))?;
        // It becomes part of a path.
        if created.id.is_empty()
            || created.id.len() > 64
            || !created.id.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
        {
            return Err(unexpected(&answer));
        }
        Ok(Self { store, id: created.id, ttl, since: Mutex::new(since), open: AtomicBool::new(true) })
    }

    /// Starts its time to live anew; false if it has ended.
    pub(crate) async fn renew(&self) -> Result<bool> {
        let began = Instant::now();
        let target = self.store.client.target(&format!("/v1/session/renew/{}", self.id), &[]);
        let answer = self.store.client.put(target, Bytes::new(), Kind::Repeatable).await?;
        match answer.status {
            StatusCode::OK => {
                *self.since.lock().unwrap_or_else(PoisonError::into_inner) = began;
                Ok(true)
            }
            // A leader that was only just elected answers from what it has applied so far, which may not be all that
            // is committed: renewing is no consistent read. Asking for the session can be one.
            StatusCode::NOT_FOUND if contains(&answer.body, b"not found") && self.exists().await? => {
                Err(Error::unavailable("a new leader does not know of the session yet"))
            }
            StatusCode::NOT_FOUND if contains(&answer.body, b"not found") => Ok(false),
            _ => Err(unexpected(&answer)),
        }
    }

    async fn exists(&self) -> Result<bool> {
        let target = self.store.client.target(&format!("/v1/session/info/{}", self.id), &["consistent"]);
        let answer = self.store.client.get(target, SMALL).await?;
        if answer.status != StatusCode::OK {
            return Err(unexpected(&answer));
        }
        let found: Option<Vec<IgnoredAny>> =
            serde_json::from_slice(&answer.body).map_err(|error| unexpected(&answer).with_source(error))?;
        Ok(found.is_some_and(|found| !found.is_empty()))
    }

    pub(crate) fn since(&self) -> Instant {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends it, and with it whatever it still holds; one that has ended is no error.
    pub(crate) async fn destroy(&self) -> Result<()> {
        if self.open.load(Ordering::Relaxed) {
            destroy(&self.store, &self.id).await?;
            self.open.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Makes it the lease on a key that it holds.
    pub(crate) fn grant(self, key: &str, token: u64, use_: Use) -> Grant {
        let (ttl, since) = (self.ttl, self.since());
        let guard = Guard { key: key.to_owned(), owner: self.id.clone(), token };
        Grant { lease: Box::new(Held { session: self, key: key.to_owned(), use_ }), ttl, since, guard }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.open.load(Ordering::Relaxed) {
            return;
        }
        // Without a runtime nothing can be sent; the time to live ends it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (store, id) = (self.store.clone(), std::mem::take(&mut self.id));
            runtime.spawn(async move {
                if let Err(error) = destroy(&store, &id).await {
                    tracing::debug!(%error, "a session that nobody needs is left to its time to live");
                }
            });
        }
    }
}

async fn destroy(store: &Store, id: &str) -> Result<()> {
    let target = store.client.target(&format!("/v1/session/destroy/{id}"), &[]);
    let answer = store.client.put(target, Bytes::new(), Kind::Repeatable).await?;
    if answer.status == StatusCode::OK { Ok(()) } else { Err(unexpected(&answer)) }
}

/// What a lease is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    Ephemeral,
    Lock,
}

/// A key that a session holds.
struct Held {
    session: Session,
    key: String,
    use_: Use,
}

impl Held {
    fn lost(&self) -> Error {
        Error::Lost { key: self.key.clone() }
    }

    async fn renew_session(&self) -> Result<()> {
        if self.session.renew().await? { Ok(()) } else { Err(self.lost()) }
    }

    /// Applies an operation, if any, provided that the key is still this session's.
    async fn guarded(&self, operation: Option<Operation<'_>>) -> Result<Option<u64>> {
        let check = Operation::check_session(&self.key, &self.session.id);
        let operations: Vec<_> = [Some(check), operation].into_iter().flatten().collect();
        match self.session.store.transact(&operations).await? {
            Outcome::Applied(index) => Ok(index),
            Outcome::Refused(refused) => Err(fault(&refused).unwrap_or_else(|| self.lost())),
        }
    }
}

#[async_trait]
impl Lease for Held {
    async fn renew(&self) -> Result<()> {
        self.renew_session().await?;
        // A session lives on when somebody deletes its key or takes it by force.
        self.guarded(None).await.map(drop)
    }

    async fn set(&self, data: Bytes) -> Result<u64> {
        self.renew_session().await?;
        let flags = match self.use_ {
            Use::Ephemeral => self.session.store.fresh_flags(),
            Use::Lock => LOCK_FLAGS,
        };
        // To lock it once more writes the value, and leaves the key with the session.
        let index = self.guarded(Some(Operation::lock(&self.key, &self.session.id, &data, flags))).await?;
        index.ok_or_else(|| Error::unexpected_answer("the write was applied, but no index came back"))
    }

    async fn release(&self) -> Result<()> {
        let deleted = self.guarded(Some(Operation::delete(&self.key))).await;
        if matches!(&deleted, Ok(_) | Err(Error::Lost { .. })) {
            // The key is free already; what is left is a session that holds nothing.
            if let Err(error) = self.session.destroy().await {
                tracing::debug!(%error, "the session of a released lease could not be destroyed yet");
            }
        }
        deleted.map(drop)
    }
}

/// Creates a key that vanishes with its session.
pub(crate) async fn ephemeral_key(store: &Arc<Store>, key: &str, ttl: Duration) -> Result<Grant> {
    let session = Session::create(store, key, ttl).await?;
    let lock = Operation::lock(key, &session.id, b"", store.fresh_flags());
    match store.transact(&[Operation::check_index(key, 0), lock]).await? {
        Outcome::Applied(index) => {
            let token = index.ok_or_else(|| Error::unexpected_answer("the key was created, but no index came back"))?;
            Ok(session.grant(key, token, Use::Ephemeral))
        }
        Outcome::Refused(refused) => Err(fault(&refused).unwrap_or_else(|| transient(key, &refused))),
    }
}

/// Why a key could not be locked, where that is neither a fault nor the store's last word.
fn transient(key: &str, refused: &[Refused]) -> Error {
    let says = |why| refused.iter().any(|one| one.why == why);
    if says(Refusal::Check) {
        Error::Conflict { key: key.to_owned() }
    } else if says(Refusal::Delayed) {
        Error::unavailable("the lock delay of the key's last session is not over")
    } else {
        Error::unavailable("the session ended before it could be used")
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
