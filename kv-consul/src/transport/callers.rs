//! The calls that a request serves: when the request must end, and what the calls learn about it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kv_core::backend::call::Call;
use kv_core::backend::fate::Idempotence;
use kv_core::{Error, Result};
use tokio::time::{Instant, timeout_at};

/// The timeout of a request that no call waits for: one of a background task, or one step of a wait for a lock.
///
/// Calls have no such limit ([clause S3](kv_core::contract::CLAUSES#S3)). But these requests must return at some time,
/// so that their task can check its state again. An agent waits up to 7 seconds for a leader before it answers.
const UNATTENDED: Duration = Duration::from_secs(10);

/// The calls that a request serves. Clones refer to the same calls.
#[derive(Clone)]
pub(crate) struct Callers(Arc<State>);

struct State {
    calls: Vec<Call>,
    /// When the first caller gives up. A request that has not been sent by then must not be sent.
    earliest: Option<Instant>,
    /// When the last caller gives up, if that is known.
    end: Option<Instant>,
    /// Whether the request is dropped when its caller gives up.
    is_attended: bool,
    /// Whether the request decides the fate of the calls.
    decides: bool,
    sent: AtomicBool,
    attempts: Mutex<Attempts>,
}

/// What is known of the attempts, for the error of a request whose time is up.
#[derive(Default)]
struct Attempts {
    /// The agent that has not answered yet.
    asked: Option<Arc<str>>,
    /// Why the attempt before failed.
    failure: Option<String>,
}

impl Callers {
    /// The call that the current task serves. The handle drops it when its time is up.
    pub(crate) fn current() -> Self {
        let call = Call::current();
        let earliest = call.deadline();
        let end = if earliest.is_none() { Instant::now().checked_add(UNATTENDED) } else { None };
        Self::new(vec![call], earliest.or(end), end, earliest.is_some(), true)
    }

    /// A call whose request is dropped when its caller gives up, in whatever task it runs.
    pub(crate) fn one(call: &Call) -> Self {
        Self::new(vec![call.clone()], call.deadline(), None, true, true)
    }

    /// A request that a background task makes for a call. The call learns why an attempt failed, but the request does
    /// not decide its fate. A request that was sent in the call's time goes on even if the caller gives up.
    pub(crate) fn in_background_of(call: &Call) -> Self {
        let (now, deadline) = (Instant::now(), call.deadline());
        let end = deadline.unwrap_or(now).max(now).checked_add(UNATTENDED);
        Self::new(vec![call.clone()], deadline.or(end), end, false, false)
    }

    /// Several calls, whose request is not dropped when their callers give up.
    pub(crate) fn together(calls: Vec<Call>) -> Self {
        let deadlines = || calls.iter().map(Call::deadline);
        let earliest = deadlines().flatten().min();
        let end = if deadlines().all(|deadline| deadline.is_some()) { deadlines().flatten().max() } else { None };
        Self::new(calls, earliest, end, false, true)
    }

    fn new(
        calls: Vec<Call>,
        earliest: Option<Instant>,
        end: Option<Instant>,
        is_attended: bool,
        decides: bool,
    ) -> Self {
        let (sent, attempts) = (AtomicBool::new(false), Mutex::default());
        Self(Arc::new(State { calls, earliest, end, is_attended, decides, sent, attempts }))
    }

    /// The calls whose fate is that of the request.
    fn decided(&self) -> &[Call] {
        if self.0.decides { &self.0.calls } else { &[] }
    }

    /// Notes that nothing was applied, and that nothing is on its way.
    pub(super) fn not_sent(&self) {
        self.0.sent.store(false, Ordering::Release);
        self.decided().iter().for_each(Call::not_sent);
    }

    /// Notes that the request may be applied from now on.
    ///
    /// Returns `false` if a caller has given up, and knows that nothing was applied. Then the request must not be sent.
    pub(super) fn sent(&self) -> bool {
        let all_wait = self.decided().iter().fold(true, |all_wait, call| call.sent() & all_wait);
        self.0.sent.store(all_wait, Ordering::Release);
        if !all_wait {
            self.decided().iter().for_each(Call::not_sent);
        }
        all_wait
    }

    /// Notes which agent is asked.
    pub(super) fn ask(&self, agent: &Arc<str>) {
        for call in &self.0.calls {
            call.asks(agent);
        }
        self.attempts().asked = Some(Arc::clone(agent));
    }

    /// Notes why an attempt failed.
    pub(super) fn attempt_failed(&self, error: &Error) {
        for call in &self.0.calls {
            call.attempt_failed(error);
        }
        *self.attempts() = Attempts { asked: None, failure: Some(error.to_string()) };
    }

    fn attempts(&self) -> MutexGuard<'_, Attempts> {
        self.0.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether one of the callers has given up, so that the request must not be sent any more.
    pub(crate) fn are_late(&self) -> bool {
        self.0.earliest.is_some_and(|earliest| earliest <= Instant::now())
    }

    /// The time that is left for sending the request.
    pub(super) fn time_left(&self) -> Option<Duration> {
        self.0.earliest.map(|earliest| earliest.saturating_duration_since(Instant::now()))
    }

    /// Runs a request until no caller waits for it.
    pub(super) async fn bound<T>(
        &self,
        idempotence: Idempotence,
        request: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let Some(end) = self.0.end else { return request.await };
        timeout_at(end, request).await.unwrap_or_else(|_elapsed| Err(self.late(idempotence)))
    }

    /// Ends a request that is too late to be sent. An attended request is dropped by the handle, which has the better
    /// error.
    pub(super) async fn give_up<T>(&self, error: Error) -> Result<T> {
        if self.0.is_attended {
            std::future::pending::<()>().await;
        }
        Err(error)
    }

    /// The error of a request whose time is up.
    fn late(&self, idempotence: Idempotence) -> Error {
        let Attempts { asked, failure } = &*self.attempts();
        let who = asked.as_deref().unwrap_or("any agent");
        let before = failure.as_ref().map(|failure| format!("; the attempt before failed: {failure}"));
        let reason = format!("no answer from {who} in time{}", before.unwrap_or_default());
        if self.0.sent.load(Ordering::Acquire) { idempotence.unknown(reason) } else { Error::unavailable(reason) }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test]
    async fn a_request_without_callers_ends() {
        for (sent, idempotence, is_known) in
            [(false, Idempotence::Once, true), (true, Idempotence::Once, false), (true, Idempotence::Repeatable, true)]
        {
            let now = Some(Instant::now());
            let callers = Callers::new(vec![Call::current()], now, now, false, true);
            callers.not_sent();
            if sent {
                assert!(callers.sent());
            }
            let error = callers.bound(idempotence, pending::<Result<()>>()).await.expect_err("it is late");
            assert_eq!(error.is_retryable(), is_known, "{error:?}");
            assert!(callers.are_late());
        }
    }

    #[tokio::test]
    async fn calls_without_a_deadline_are_never_late() {
        let callers = Callers::together(vec![Call::current(), Call::current()]);
        assert!(!callers.are_late() && callers.time_left().is_none());
    }
}
