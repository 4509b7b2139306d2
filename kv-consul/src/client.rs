//! Calls of Consul's HTTP API: which agent, how long, how much, and what became of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use kv_core::observability::attempt_failed;
use kv_core::{Error, Result};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use crate::NAME;
use crate::agent::{Agent, Answer, Request};
use crate::config::{Config, Consistency};
use crate::error::Kind;
use crate::path;

/// How many ordinary calls are in flight at a time; more wait for their turn.
///
/// An agent cuts off whatever goes over 200 connections from one address. With [`WAITS`] this stays well below that,
/// also when the pool opens a connection for a call that another one, just freed, then serves.
const CALLS: usize = 48;

/// How many blocking queries are in flight at a time, those included that nobody waits for any more.
const WAITS: usize = 64;

/// A connect attempt takes no longer than this, and less where the request timeout is short or agents are many.
const CONNECT: Duration = Duration::from_secs(2);

/// The most that is read of an answer that is not a listing; values are at most 512 KiB unless configured otherwise.
pub(crate) const SMALL: usize = 32 << 20;

/// The most that is read of a listing.
pub(crate) const LISTING: usize = 1 << 30;

/// The most that is read of a listing of names alone, of which short ones take many times as much as in JSON.
pub(crate) const NAMES: usize = 128 << 20;

/// The agents of one datacenter, with a pool of connections to each.
pub(crate) struct Client {
    agents: Vec<Agent>,
    /// The agent that answered last.
    current: AtomicUsize,
    calls: Semaphore,
    waits: Semaphore,
    /// For one call, its attempts at other agents included: a little below the request timeout, so that what is
    /// known of its fate is told in time.
    limit: Duration,
    /// What every query ends in.
    datacenter: Option<String>,
    consistency: Consistency,
}

impl Client {
    pub(crate) fn new(config: &Config) -> Result<Arc<Self>> {
        let limit = config.timeout / 20 * 19;
        let connect = CONNECT.min(limit / (u32::try_from(config.hosts.len()).unwrap_or(u32::MAX).saturating_add(1)));
        let agent = |host| Agent::new(config, host, connect, CALLS + WAITS);
        let agents = config.hosts.iter().map(agent).collect::<Result<_>>()?;
        Ok(Arc::new(Self {
            agents,
            current: AtomicUsize::new(0),
            calls: Semaphore::new(CALLS),
            waits: Semaphore::new(WAITS),
            limit,
            datacenter: config.datacenter.as_deref().map(|name| path::parameter("dc", name)),
            consistency: config.consistency,
        }))
    }

    /// The parameter that makes a read as consistent as the address says.
    pub(crate) fn consistency(&self) -> &'static str {
        self.consistency.parameter()
    }

    /// A path with its query: each parameter that is not empty, and the datacenter.
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

    /// Reads, at the next agent too where one fails.
    pub(crate) async fn get(&self, target: String, cap: usize) -> Result<Answer> {
        self.call(&reading(target, cap)).await
    }

    /// Reads as [`get`](Self::get) does, and the entries below a prefix while they arrive.
    pub(crate) async fn get_list(&self, target: String, prefix: &str) -> Result<Answer> {
        self.call(&Request { prefix: Some(prefix.to_owned()), ..reading(target, LISTING) }).await
    }

    /// Writes, at the next agent too where one certainly did not take it.
    pub(crate) async fn put(&self, target: String, body: Bytes, kind: Kind) -> Result<Answer> {
        self.call(&Request { method: Method::PUT, target, body, kind, cap: SMALL, prefix: None }).await
    }

    async fn call(&self, request: &Request) -> Result<Answer> {
        let deadline = Instant::now() + self.limit;
        let Ok(permit) = timeout_at(deadline, self.calls.acquire()).await else {
            return Err(Error::unavailable(format!("{CALLS} other calls are in flight, and none ended in time")));
        };
        let result = self.call_agents(request, deadline).await;
        drop(permit);
        result
    }

    async fn call_agents(&self, request: &Request, deadline: Instant) -> Result<Answer> {
        let agents = self.agents.len();
        let first = self.current.load(Ordering::Relaxed);
        // What may be sent again is, once more than there are agents: a connection may break that was idle for long.
        let attempts = if request.kind == Kind::Repeatable { agents + 1 } else { agents };
        let mut attempt = 0;
        loop {
            let at = (first + attempt) % agents;
            // It also leaves time for the agents that were not tried yet.
            let share = match (request.kind, u32::try_from(agents.saturating_sub(attempt))) {
                (Kind::Repeatable, Ok(untried @ 2..)) => {
                    Instant::now() + deadline.saturating_duration_since(Instant::now()) / untried
                }
                _ => deadline,
            };
            attempt += 1;
            let error = match timeout_at(share, self.agents[at].send(request)).await {
                Ok(Ok(answer)) => {
                    self.current.store(at, Ordering::Relaxed);
                    return Ok(answer);
                }
                Ok(Err(error)) => error,
                Err(_elapsed) => request.kind.late(self.limit),
            };
            // The next call does not begin with the agent that failed this one.
            self.current.store((at + 1) % agents, Ordering::Relaxed);
            if attempt == attempts || !error.is_retryable() || Instant::now() >= deadline {
                return Err(error);
            }
            attempt_failed(NAME, Some(&self.agents[at].base), attempt, &error);
        }
    }

    /// Permits a blocking query, unless there are too many.
    pub(crate) fn try_wait(&self) -> Option<SemaphorePermit<'_>> {
        self.waits.try_acquire().ok()
    }

    /// Makes one attempt of a read that takes `limit` at most, outside the number of ordinary calls.
    pub(crate) async fn wait(&self, target: String, limit: Duration) -> Result<Answer> {
        let request = reading(target, LISTING);
        let at = self.current.load(Ordering::Relaxed);
        let result = tokio::time::timeout(limit, self.agents[at].send(&request)).await;
        let result = result.unwrap_or_else(|_elapsed| Err(Kind::Repeatable.late(limit)));
        if result.is_err() {
            self.leave(at);
        }
        result
    }

    /// Goes on with the next agent, unless another call has already.
    fn leave(&self, at: usize) {
        let next = (at + 1) % self.agents.len();
        let _ = self.current.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
    }
}

fn reading(target: String, cap: usize) -> Request {
    Request { method: Method::GET, target, body: Bytes::new(), kind: Kind::Repeatable, cap, prefix: None }
}
