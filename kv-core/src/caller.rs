//! What every call goes through, whatever its verb: the root, the checks, the request timeout, the span, the error.

use std::borrow::Cow;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tracing::Instrument as _;

use crate::backend::address::DEFAULT_TIMEOUT;
use crate::backend::call::bounded;
use crate::backend::fate::Idempotence;
use crate::backend::{Backend, Txn};
use crate::holdings::{Holdings, LeftToLapse, Place};
use crate::key::{check_directory, check_key, check_prefix};
use crate::{Error, Limits, Result, observability};

/// A backend with the root and the request timeout of a handle.
#[derive(Clone)]
pub(crate) struct Caller {
    family: Arc<Family>,
    pub(crate) root: Arc<str>,
    pub(crate) timeout: Duration,
}

/// What the clones of a handle share.
struct Family {
    backend: Arc<dyn Backend>,
    holdings: Arc<Holdings>,
}

impl Caller {
    /// Without a root.
    pub(crate) fn new(backend: Arc<dyn Backend>, timeout: Duration) -> Self {
        Self { family: Arc::new(Family { backend, holdings: Holdings::new() }), root: "".into(), timeout }
    }

    /// For calls that nobody waits for: they have time, even if the handle's calls have little.
    pub(crate) fn in_background(&self) -> Self {
        Self { timeout: self.timeout.max(DEFAULT_TIMEOUT), ..self.clone() }
    }

    pub(crate) fn backend(&self) -> &dyn Backend {
        &*self.family.backend
    }

    pub(crate) fn backend_name(&self) -> &'static str {
        self.backend().name()
    }

    /// The limits of the backend; the key length is what remains below the root.
    pub(crate) fn limits(&self) -> Limits {
        Limits { key_bytes: self.key_bytes(), ..self.backend().limits() }
    }

    /// Makes a call that changes nothing, within the request timeout.
    pub(crate) async fn read<T>(
        &self,
        verb: &'static str,
        key: &str,
        future: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.call(verb, key, Idempotence::Repeatable, future).await
    }

    /// Sends a transaction whose keys and sizes have been checked.
    pub(crate) async fn commit(&self, verb: &'static str, key: &str, txn: Txn) -> Result<Option<u64>> {
        let result = self.call(verb, key, Idempotence::Once, self.backend().commit(txn)).await;
        if let Err(Error::Lost { key }) = &result {
            observability::lease_lost(self.backend_name(), key);
        }
        result
    }

    /// Makes a call within the request timeout. Every call but `lock` goes through here.
    pub(crate) async fn call<T>(
        &self,
        verb: &'static str,
        key: &str,
        idempotence: Idempotence,
        future: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let bounded = pin!(bounded(self.timeout, idempotence, future));
        self.traced(verb, key, bounded).await
    }

    /// How long a lease of this time to live may stand in the store without renewal.
    pub(crate) fn lasts(&self, ttl: Duration) -> Duration {
        ttl.saturating_add(self.backend().limits().expiry_lag.after(ttl))
    }

    /// Makes room for what a call is about to take for so long; the key is complete.
    pub(crate) fn place(&self, key: &str, ttl: Duration) -> Result<Place> {
        self.family.holdings.begin(key, self.lasts(ttl)).map_err(|error| self.located(error, "", ""))
    }

    /// Gives back everything that the clones of the handle hold or wait for, within the request timeout.
    pub(crate) async fn close(&self) -> Result<()> {
        let Family { backend, holdings } = &*self.family;
        let giving_back = async {
            let failure = holdings.give_back().await;
            let closed = bounded(self.timeout, Idempotence::Repeatable, backend.close()).await;
            failure.or(closed.err()).map(|error| error.reason())
        };
        let late = || Some(format!("not done within {:?}", self.timeout));
        let mut giving_back = Box::pin(giving_back);
        // A store in this process needs neither a timer nor a runtime.
        let failure = match futures_util::poll!(giving_back.as_mut()) {
            Poll::Ready(failure) => failure,
            Poll::Pending => tokio::time::timeout(self.timeout, giving_back).await.unwrap_or_else(|_| late()),
        };
        let LeftToLapse { keys, within } = holdings.end_closing();
        match failure {
            None if keys.is_empty() => Ok(()),
            reason => {
                let earlier = || "a handle that was dropped before could not be released".to_owned();
                Err(Error::LeftToLapse { keys, within, reason: reason.unwrap_or_else(earlier) })
            }
        }
    }

    /// Waits for a lock without a limit, and reports the wait once it is long.
    pub(crate) async fn waits<T>(&self, waiting: impl Future<Output = Result<T>>) -> Result<T> {
        const LONG: Duration = Duration::from_secs(1);
        let mut waiting = pin!(waiting);
        // A store in this process that grants the lock at once is spared the timer.
        if let Poll::Ready(result) = futures_util::poll!(waiting.as_mut()) {
            return result;
        }
        if let Ok(result) = tokio::time::timeout(LONG, waiting.as_mut()).await {
            return result;
        }
        observability::waiting_for_lock(self.backend_name());
        waiting.await
    }

    /// Makes a call in a span of its own, and completes its error.
    pub(crate) async fn traced<T>(
        &self,
        operation: &'static str,
        key: &str,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let span = observability::call(operation, self.backend_name(), key);
        if span.is_disabled() {
            return call.await.map_err(|error| self.located(error, operation, key));
        }
        let result = call.instrument(span.clone()).await.map_err(|error| self.located(error, operation, key));
        observability::done(&span, result.as_ref().map_or_else(Error::outcome, |_| "ok"));
        result
    }

    /// Adds backend, operation and key to an error, and takes the root off its keys.
    pub(crate) fn located(&self, error: Error, verb: &str, key: &str) -> Error {
        error.located(self.backend_name(), verb, key, &self.root)
    }

    /// Takes the root off a key that the backend returned.
    pub(crate) fn make_relative(&self, key: &mut String) {
        if !self.root.is_empty() && key.starts_with(&*self.root) {
            key.drain(..self.root.len());
        }
    }

    /// Puts the root before a key that has been checked.
    pub(crate) fn complete<'a>(&self, key: &'a str) -> Cow<'a, str> {
        if self.root.is_empty() { Cow::Borrowed(key) } else { Cow::Owned([&*self.root, key].concat()) }
    }

    pub(crate) fn complete_key(&self, key: &str) -> Result<String> {
        self.check_key(key)?;
        Ok(self.complete(key).into_owned())
    }

    pub(crate) fn complete_prefix<'a>(&self, prefix: &'a str) -> Result<Cow<'a, str>> {
        check_prefix(prefix, self.key_bytes())?;
        Ok(self.complete(prefix))
    }

    /// The beginning of every key in a directory: empty, or ending in `/`.
    pub(crate) fn complete_directory(&self, directory: &str) -> Result<String> {
        let bare = check_directory(directory, self.key_bytes())?;
        Ok(if bare.is_empty() { self.root.to_string() } else { format!("{}{bare}/", self.root) })
    }

    pub(crate) fn check_key(&self, key: &str) -> Result<()> {
        check_key(key, self.key_bytes())
    }

    pub(crate) fn check_value(&self, key: &str, data: &Bytes) -> Result<()> {
        let (bytes, max) = (data.len(), self.backend().limits().value_bytes);
        if bytes > max { Err(Error::ValueTooLarge { key: key.to_owned(), bytes, max }) } else { Ok(()) }
    }

    /// Refuses a time to live outside the limits, and rounds it up to the store's unit.
    pub(crate) fn check_ttl(&self, ttl: Duration) -> Result<Duration> {
        let Limits { min_ttl: min, max_ttl: max, ttl_step, .. } = self.backend().limits();
        if ttl < min || ttl > max {
            return Err(Error::InvalidTtl { ttl, min, max });
        }
        let step = ttl_step.as_nanos().max(1);
        let nanos = ttl.as_nanos().div_ceil(step) * step;
        Ok(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }

    /// The longest key below the root.
    fn key_bytes(&self) -> usize {
        self.backend().limits().key_bytes.saturating_sub(self.root.len())
    }
}
