//! Which agent a request goes to, how long it may take, and what is tried again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use kv_core::backend::backoff::Backoff;
use kv_core::backend::fate::Idempotence;
use kv_core::backend::rotation::Rotation;
use kv_core::observability::attempt_failed;
use kv_core::{Error, Result};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::agent::{Agent, Request, Response};
use super::tls::Tls;
use crate::api::answer::Answer;
use crate::api::path;
use crate::config::{Config, Consistency, NAME};

/// How many ordinary requests are in flight at most; further ones wait.
///
/// An agent closes every connection beyond 200 from one address. Together with [`WAITS`] this stays well below, even
/// when the pool opens a connection for a request and another connection becomes free first.
const CALLS: usize = 48;

/// How many blocking queries are in flight at most, including those that nobody waits for any more.
const WAITS: usize = 64;

/// The longest time for one attempt to connect. It is shorter if the request timeout is short or there are many agents.
const CONNECT: Duration = Duration::from_secs(2);

/// The pauses after all agents failed: short at first, because an election takes about a second.
const BETWEEN_ROUNDS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(250));

/// The most bytes that are read of an answer that is not a listing. Values are at most 512 KiB unless configured
/// otherwise.
pub(crate) const SMALL: usize = 32 << 20;

/// The most bytes that are read of a listing.
pub(crate) const LISTING: usize = 1 << 30;

/// The most bytes that are read of a listing of names. JSON makes short names many times longer.
pub(crate) const NAMES: usize = 128 << 20;

/// The agents of one datacenter as one runtime uses them, with a pool of connections to each.
pub(crate) struct Client {
    agents: Vec<Agent>,
    rotation: Arc<Rotation>,
    calls: Semaphore,
    waits: Semaphore,
    /// The time for one call with all its attempts.
    limit: Duration,
    /// The query parameter that names the datacenter.
    datacenter: Option<String>,
    consistency: Consistency,
}

impl Client {
    pub(super) fn new(config: &Config, tls: &Tls, rotation: Arc<Rotation>) -> Result<Self> {
        let limit = config.limit();
        let connect = CONNECT.min(limit / (u32::try_from(config.hosts.len()).unwrap_or(u32::MAX).saturating_add(1)));
        let agent = |host| Agent::new(config, host, tls, connect, CALLS + WAITS);
        Ok(Self {
            agents: config.hosts.iter().map(agent).collect::<Result<_>>()?,
            rotation,
            calls: Semaphore::new(CALLS),
            waits: Semaphore::new(WAITS),
            limit,
            datacenter: config.datacenter.as_deref().map(|name| path::parameter("dc", name)),
            consistency: config.consistency,
        })
    }

    /// The query parameter for the consistency that the address asks for.
    pub(crate) fn consistency(&self) -> &'static str {
        self.consistency.parameter()
    }

    /// A path with its query: all parameters that are not empty, and the datacenter.
    pub(crate) fn target(&self, path: &str, parameters: &[&str]) -> String {
        let mut target = path.to_owned();
        let mut mark = '?';
        for parameter in parameters.iter().copied().chain(self.datacenter.as_deref()).filter(|one| !one.is_empty()) {
            target.push(mark);
            target.push_str(parameter);
            mark = '&';
        }
        target
    }

    /// When the time of a call that begins now is up.
    fn deadline(&self) -> Instant {
        Instant::now() + self.limit
    }

    /// Sends a read, again and elsewhere until one agent answers or the time is up.
    pub(crate) async fn get(&self, target: String, cap: usize) -> Result<Answer> {
        self.call(&reading(target, cap), Response::whole, self.deadline(), usize::MAX).await
    }

    /// Sends a read as [`get`](Self::get) does; `receive` reads the body of each attempt.
    pub(crate) async fn get_with<T, F>(
        &self,
        target: String,
        cap: usize,
        receive: impl Fn(Response) -> F + Send + Sync,
    ) -> Result<T>
    where
        T: Send,
        F: Future<Output = Result<T>> + Send,
    {
        self.call(&reading(target, cap), receive, self.deadline(), usize::MAX).await
    }

    /// Sends a read whose failure is an answer too: it asks each agent, but does not wait until one can answer.
    pub(crate) async fn probe(&self, target: String) -> Result<Answer> {
        // Twice, because a pooled connection may be dead.
        self.call(&reading(target, SMALL), Response::whole, self.deadline(), 2).await
    }

    /// Sends a write, again and elsewhere as long as it was certainly not applied and there is time.
    pub(crate) async fn put(&self, target: String, body: Bytes, idempotence: Idempotence) -> Result<Answer> {
        self.put_until(self.deadline(), target, body, idempotence).await
    }

    /// Sends a write as [`put`](Self::put) does, for a caller whose time is up at `deadline`.
    pub(crate) async fn put_until(
        &self,
        deadline: Instant,
        target: String,
        body: Bytes,
        idempotence: Idempotence,
    ) -> Result<Answer> {
        let request = Request { method: Method::PUT, target, body, idempotence, cap: SMALL };
        self.call(&request, Response::whole, deadline, usize::MAX).await
    }

    /// Asks all agents in turn, at most `rounds` times, with pauses between the rounds
    /// ([clause S5](kv_core::contract)).
    async fn call<T, F>(
        &self,
        request: &Request,
        receive: impl Fn(Response) -> F + Send + Sync,
        deadline: Instant,
        rounds: usize,
    ) -> Result<T>
    where
        T: Send,
        F: Future<Output = Result<T>> + Send,
    {
        let mut backoff = Backoff::new(BETWEEN_ROUNDS.0, BETWEEN_ROUNDS.1);
        let (mut attempts, mut untried) = (0, self.rotation.order().into_iter());
        loop {
            let at = untried.next().unwrap_or_else(|| self.rotation.first());
            let share = share(request.idempotence, untried.len() + 1, deadline);
            let error = match self.attempt(at, request, &receive, share).await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            attempts += 1;
            let pause = if untried.len() == 0 { backoff.next() } else { Duration::ZERO };
            let is_over = backoff.attempts() == rounds || Instant::now() + pause >= deadline;
            if !error.is_retryable() || is_over {
                return Err(error);
            }
            attempt_failed(NAME, Some(&self.agents[at].base), attempts, &error);
            if untried.len() == 0 {
                sleep(pause).await;
                untried = self.rotation.order().into_iter();
            }
        }
    }

    /// Makes one attempt at one agent. It counts as an ordinary call, and ends at `until`.
    async fn attempt<T, F>(
        &self,
        at: usize,
        request: &Request,
        receive: &(impl Fn(Response) -> F + Sync),
        until: Instant,
    ) -> Result<T>
    where
        T: Send,
        F: Future<Output = Result<T>> + Send,
    {
        let Ok(_permit) = timeout_at(until, self.calls.acquire()).await else {
            return Err(Error::unavailable(format!("{CALLS} other calls are in flight, and none ended in time")));
        };
        let began = Instant::now();
        let sending = async { receive(self.agents[at].send(request).await?).await };
        let result = timeout_at(until, sending).await;
        let result = result.unwrap_or_else(|_elapsed| Err(request.idempotence.late(began.elapsed())));
        self.note(at, &result);
        result
    }

    /// Permits a blocking query, unless there are too many.
    pub(crate) fn try_wait(&self) -> Option<SemaphorePermit<'_>> {
        self.waits.try_acquire().ok()
    }

    /// Makes one attempt of a read that takes at most `limit`. It does not count as an ordinary call.
    pub(crate) async fn wait(&self, target: String, limit: Duration) -> Result<Answer> {
        let request = reading(target, LISTING);
        let at = self.rotation.first();
        let sending = async { self.agents[at].send(&request).await?.whole().await };
        let result = timeout(limit, sending).await.unwrap_or_else(|_elapsed| Err(Idempotence::Repeatable.late(limit)));
        // A success says nothing about now: the answer may have begun long ago.
        if result.is_err() {
            self.note(at, &result);
        }
        result
    }

    /// Tells the rotation how an attempt ended. An agent that refuses a call has answered it.
    fn note<T>(&self, at: usize, result: &Result<T>) {
        match result {
            Err(Error::Unavailable { .. } | Error::Indeterminate { .. } | Error::UnexpectedAnswer { .. }) => {
                self.rotation.failed(at);
            }
            _ => self.rotation.answered(at),
        }
    }
}

/// When an attempt is given up: early enough that a repeatable call can still try the `untried` agents.
fn share(idempotence: Idempotence, untried: usize, deadline: Instant) -> Instant {
    match u32::try_from(untried) {
        Ok(untried @ 2..) if idempotence.is_repeatable() => {
            Instant::now() + deadline.saturating_duration_since(Instant::now()) / untried
        }
        _ => deadline,
    }
}

fn reading(target: String, cap: usize) -> Request {
    Request { method: Method::GET, target, body: Bytes::new(), idempotence: Idempotence::Repeatable, cap }
}
