//! The call that a backend serves: its deadline, and whether it was sent.

use std::cell::OnceCell;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use super::fate::Idempotence;
use crate::{Error, Result};

tokio::task_local! {
    static CURRENT: Current;
}

/// The call of the current task. Memory for it is taken only if the backend asks.
struct Current {
    limit: Duration,
    call: OnceCell<Call>,
}

/// A call of a [`Kv`](crate::Kv), as the backend that serves it sees it.
///
/// The handle's timeout is the only one that counts ([clause S3](crate::contract::CLAUSES#S3)): the handle drops the
/// call's future when the time is up. A backend that retries goes on until then, and says here what the handle cannot
/// know: whether a byte of the call has left ([clause W6](crate::contract::CLAUSES#W6)), and why the last attempt
/// failed.
///
/// A backend that says nothing is assumed to have sent the call. Clones are of the same call; a request that carries
/// several calls keeps a clone of each.
///
/// ```
/// # use kv_core::backend::call::Call;
/// # use kv_core::{Error, Result};
/// # async fn connection() -> Result<()> { Ok(()) }
/// # async fn send() -> Result<u64> { Ok(1) }
/// async fn commit() -> Result<u64> {
///     let call = Call::current();
///     call.not_sent();
///     while let Err(error) = connection().await {
///         call.attempt_failed(&error);
///     }
///     if !call.sent() {
///         return Err(Error::unavailable("the caller no longer waits"));
///     }
///     send().await
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Call(Arc<State>);

#[derive(Debug)]
struct State {
    deadline: Option<Instant>,
    progress: AtomicU8,
    attempts: Mutex<Attempts>,
}

/// What is known of the attempts, for the error of a call that runs out of time.
#[derive(Debug, Default)]
struct Attempts {
    /// The endpoint that has not answered yet.
    asked: Option<Arc<str>>,
    /// Why the attempt before failed.
    failure: Option<String>,
}

/// The backend does not say how far the call is.
const UNKNOWN: u8 = 0;
/// Nothing of the call has left, or the store has refused what did.
const NOT_SENT: u8 = 1;
/// The store may have applied it.
const SENT: u8 = 2;
/// The caller was told that nothing was applied, so it must not be sent any more.
const GIVEN_UP: u8 = 3;

impl Call {
    /// The call that the current task serves.
    ///
    /// Outside a call, as in a task of the backend's own or in [`Backend::lock`](super::Backend::lock), there is no
    /// deadline, and nobody looks at what is noted.
    pub fn current() -> Self {
        CURRENT
            .try_with(|current| {
                current.call.get_or_init(|| Self::new(Instant::now().checked_add(current.limit))).clone()
            })
            .unwrap_or_else(|_| Self::new(None))
    }

    fn new(deadline: Option<Instant>) -> Self {
        Self(Arc::new(State { deadline, progress: AtomicU8::new(UNKNOWN), attempts: Mutex::default() }))
    }

    /// When the handle gives the call up; `None` if it never does.
    pub fn deadline(&self) -> Option<Instant> {
        self.0.deadline
    }

    /// Notes that the store has certainly not applied the call, and cannot apply it any more: no byte has left, or
    /// the store has refused what did.
    pub fn not_sent(&self) {
        self.note(NOT_SENT);
    }

    /// Notes that the store may apply the call from now on; to be called before the first byte leaves.
    ///
    /// It is `false` if the handle has already told the caller that nothing was applied. Then the call must not be
    /// sent: a task that carries calls for others asks before each attempt.
    pub fn sent(&self) -> bool {
        self.note(SENT)
    }

    fn note(&self, progress: u8) -> bool {
        let note = |before| (before != GIVEN_UP).then_some(progress);
        self.0.progress.fetch_update(Ordering::AcqRel, Ordering::Acquire, note).is_ok()
    }

    /// Notes the endpoint that the call is sent to, or that it waits to be sent to, so that the error of a call that runs
    /// out of time names it.
    pub fn asks(&self, endpoint: &Arc<str>) {
        self.attempts().asked = Some(Arc::clone(endpoint));
    }

    /// Notes why an attempt failed, for the error of a call that runs out of time.
    pub fn attempt_failed(&self, error: &Error) {
        *self.attempts() = Attempts { asked: None, failure: Some(error.reason()) };
    }

    fn attempts(&self) -> MutexGuard<'_, Attempts> {
        self.0.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The error of a call that ran out of time.
    fn late(&self, limit: Duration, idempotence: Idempotence) -> Error {
        let Attempts { asked, failure } = std::mem::take(&mut *self.attempts());
        // In one step, so that a task that carries the call cannot send it after this.
        let given_up = self.0.progress.compare_exchange(NOT_SENT, GIVEN_UP, Ordering::AcqRel, Ordering::Acquire);
        let reason = match (asked, failure) {
            (None, None) => format!("no answer within {limit:?}"),
            (None, Some(failure)) => format!("it did not succeed within {limit:?}; the last attempt failed: {failure}"),
            (Some(endpoint), failure) => {
                let what = if given_up.is_ok() { "it could not be sent to" } else { "no answer from" };
                let before = failure.map(|failure| format!("; the attempt before failed: {failure}"));
                format!("{what} {endpoint} within {limit:?}{}", before.unwrap_or_default())
            }
        };
        if given_up.is_ok() { Error::unavailable(reason) } else { idempotence.unknown(reason) }
    }
}

/// Runs a call, and drops it when the time is up.
pub(crate) async fn bounded<T>(
    limit: Duration,
    idempotence: Idempotence,
    future: impl Future<Output = Result<T>>,
) -> Result<T> {
    // A store in this process answers at once: without this, a loop of such calls would let no other task run.
    tokio::task::coop::consume_budget().await;
    // Pinned here, and boxed below: futures that are handed on by value are copied at each step, timer and all.
    let mut call = pin!(CURRENT.scope(Current { limit, call: OnceCell::new() }, future));
    // Such a store is spared the timer.
    if let Poll::Ready(result) = futures_util::poll!(call.as_mut()) {
        return result;
    }
    match Box::pin(tokio::time::timeout(limit, call.as_mut())).await {
        Ok(result) => result,
        Err(_elapsed) => {
            let noted = call.take_value().and_then(|current| current.call.into_inner());
            Err(noted.unwrap_or_else(|| Call::new(None)).late(limit, idempotence))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    async fn late(idempotence: Idempotence, note: impl FnOnce(&Call)) -> Error {
        let call = async {
            note(&Call::current());
            pending::<Result<()>>().await
        };
        bounded(LIMIT, idempotence, call).await.expect_err("it is late")
    }

    fn sent(call: &Call) {
        assert!(call.sent(), "the caller still waits");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_called_not_applied_is_not_sent_any_more() {
        let mut carried = None;
        let error = late(Idempotence::Once, |call| {
            call.not_sent();
            carried = Some(call.clone());
        });
        assert!(matches!(error.await, Error::Unavailable { .. }));
        let carried = carried.expect("a call");
        carried.not_sent();
        assert!(!carried.sent(), "its caller knows that nothing was applied");
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_write_is_indeterminate_unless_nothing_of_it_was_sent() {
        assert!(matches!(late(Idempotence::Once, |_| {}).await, Error::Indeterminate { .. }));
        assert!(matches!(late(Idempotence::Once, sent).await, Error::Indeterminate { .. }));
        assert!(matches!(late(Idempotence::Once, Call::not_sent).await, Error::Unavailable { .. }));
        let sent_again = late(Idempotence::Once, |call| {
            call.not_sent();
            sent(&call.clone());
        });
        assert!(matches!(sent_again.await, Error::Indeterminate { .. }));
        assert!(matches!(late(Idempotence::Repeatable, sent).await, Error::Unavailable { .. }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_call_says_why_its_last_attempt_failed() {
        let error = late(Idempotence::Once, |call| {
            call.not_sent();
            call.attempt_failed(&Error::unavailable("127.0.0.1:1: connection refused"));
        });
        let error = error.await.to_string();
        assert!(error.contains("within 5s") && error.contains("127.0.0.1:1: connection refused"), "{error}");
        assert_eq!(error.matches("nothing was applied").count(), 1, "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_call_names_the_endpoint_that_it_waits_for() {
        let endpoint: Arc<str> = "127.0.0.1:1".into();
        let queued = late(Idempotence::Once, |call| {
            call.not_sent();
            call.asks(&endpoint);
        });
        let queued = queued.await.to_string();
        assert!(queued.contains("it could not be sent to 127.0.0.1:1 within 5s"), "{queued}");
        let unanswered = late(Idempotence::Once, |call| {
            call.attempt_failed(&Error::unavailable("127.0.0.1:2: connection refused"));
            call.asks(&endpoint);
            sent(call);
        });
        let unanswered = unanswered.await.to_string();
        assert!(unanswered.contains("no answer from 127.0.0.1:1 within 5s"), "{unanswered}");
        assert!(unanswered.contains("before failed: 127.0.0.1:2: connection refused"), "{unanswered}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_is_the_handles() {
        let started = Instant::now();
        let call = async { Ok(Call::current().deadline()) };
        assert_eq!(bounded(LIMIT, Idempotence::Once, call).await.expect("a call"), Some(started + LIMIT));
        assert_eq!(Call::current().deadline(), None);
        let endless = async { Ok(Call::current().deadline()) };
        assert_eq!(bounded(Duration::MAX, Idempotence::Once, endless).await.expect("a call"), None);
    }
}
