//! Calls of Consul's HTTP API: which agent, how long, how much, and what became of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use kv_core::observability::attempt_failed;
use kv_core::{Error, HostPort, Result};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use crate::NAME;
use crate::config::{Config, Consistency};
use crate::error::{self, Kind};
use crate::path;
use crate::tls;

/// How many ordinary calls are in flight at a time; more wait for their turn.
///
/// An agent cuts off whatever goes over 200 connections from one address. With [`WAITS`] this stays well below that,
/// also when the pool opens a connection for a call that another one, just freed, then serves.
const CALLS: usize = 48;

/// How many blocking queries are in flight at a time, those included that nobody waits for any more.
const WAITS: usize = 64;

/// A connect attempt takes no longer than this, and less where the request timeout is short or agents are many.
const CONNECT: Duration = Duration::from_secs(2);

/// A connection that nobody needs for so long is closed, and leaves its place at the agent to others.
const IDLE: Duration = Duration::from_secs(15);

/// A connection that carries nothing, not even an answer to this probe, is dead.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// The most that is read of an answer that is not a listing; values are at most 512 KiB unless configured otherwise.
pub(crate) const SMALL: usize = 32 << 20;

/// The most that is read of a listing.
pub(crate) const LISTING: usize = 1 << 30;

/// The most that is read of a listing of names alone, of which short ones take many times as much as in JSON.
pub(crate) const NAMES: usize = 128 << 20;

static X_CONSUL_TOKEN: HeaderName = HeaderName::from_static("x-consul-token");
static X_CONSUL_INDEX: HeaderName = HeaderName::from_static("x-consul-index");

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

struct Agent {
    base: String,
    http: reqwest::Client,
}

/// A request, for any agent.
pub(crate) struct Request {
    pub(crate) method: Method,
    /// The path and the query.
    pub(crate) target: String,
    pub(crate) body: Bytes,
    pub(crate) kind: Kind,
    /// The most that is read of the answer.
    pub(crate) cap: usize,
}

/// An answer of which nothing is known yet but that it came whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// `X-Consul-Index`, which only Consul sends, and only with what can be waited on.
    pub(crate) index: Option<u64>,
    pub(crate) body: Bytes,
}

impl Client {
    pub(crate) fn new(config: &Config) -> Result<Arc<Self>> {
        let limit = config.timeout / 20 * 19;
        let connect = CONNECT.min(limit / (u32::try_from(config.hosts.len()).unwrap_or(u32::MAX).saturating_add(1)));
        let agents = config.hosts.iter().map(|host| Agent::new(config, host, connect)).collect::<Result<_>>()?;
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
        let request = Request { method: Method::GET, target, body: Bytes::new(), kind: Kind::Repeatable, cap };
        self.call(&request).await
    }

    /// Writes, at the next agent too where one certainly did not take it.
    pub(crate) async fn put(&self, target: String, body: Bytes, kind: Kind) -> Result<Answer> {
        self.call(&Request { method: Method::PUT, target, body, kind, cap: SMALL }).await
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
        let request = Request { method: Method::GET, target, body: Bytes::new(), kind: Kind::Repeatable, cap: LISTING };
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

impl Agent {
    fn new(config: &Config, host: &HostPort, connect: Duration) -> Result<Self> {
        let mut headers = HeaderMap::new();
        if let Some(token) = &config.token {
            headers.insert(&X_CONSUL_TOKEN, token.clone());
        }
        if let Some(authorization) = &config.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        let mut builder = reqwest::Client::builder()
            .default_headers(headers)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            // Also where another part of the program has switched these on.
            .no_gzip()
            .no_brotli()
            .no_zstd()
            .no_deflate()
            .no_proxy()
            .http1_only()
            .tcp_nodelay(true)
            .tcp_keepalive(KEEPALIVE)
            .tcp_keepalive_interval(KEEPALIVE / 4)
            .tcp_keepalive_retries(3)
            .pool_max_idle_per_host(CALLS + WAITS)
            .pool_idle_timeout(IDLE)
            .connect_timeout(connect);
        builder = tls::prepare(builder, config.tls.as_ref())?;
        let mut shown = host.clone();
        if let Some(name) = &config.server_name {
            // The name in the URL is the one that TLS asks for and checks; only its address is the host's.
            builder = builder.dns_resolver(Elsewhere { host: host.host.clone() });
            shown.host.clone_from(name);
        }
        let scheme = if config.tls.is_some() { "https" } else { "http" };
        let base = format!("{scheme}://{}", shown.with_port(8500));
        let http = builder.build().map_err(|error| error::transport(error, Kind::Repeatable))?;
        Ok(Self { base, http })
    }

    /// Sends a request and reads the answer; 5xx and refusals are errors here, what else means something is not.
    async fn send(&self, request: &Request) -> Result<Answer> {
        let url = [&*self.base, &request.target].concat();
        let mut builder = self.http.request(request.method.clone(), url);
        if !request.body.is_empty() {
            builder =
                builder.header(CONTENT_TYPE, HeaderValue::from_static("application/json")).body(request.body.clone());
        }
        let response = builder.send().await.map_err(|error| error::transport(error, request.kind))?;
        let status = response.status();
        let index = response.headers().get(&X_CONSUL_INDEX).and_then(|value| value.to_str().ok()?.parse().ok());
        let cap = if status.is_success() { request.cap } else { request.cap.min(1 << 20) };
        let body = read(response, request.kind, cap).await?;
        match status {
            StatusCode::OK | StatusCode::NOT_FOUND | StatusCode::CONFLICT | StatusCode::PAYLOAD_TOO_LARGE => {
                Ok(Answer { status, index, body })
            }
            _ => Err(error::from_answer(status, &body, request.kind)),
        }
    }
}

/// Reads a body of at most `cap` bytes, so that no server can fill the memory.
async fn read(mut response: reqwest::Response, kind: Kind, cap: usize) -> Result<Bytes> {
    let mut chunks: Vec<Bytes> = Vec::new();
    let mut length = 0;
    while let Some(chunk) = response.chunk().await.map_err(|error| error::transport(error, kind))? {
        length += chunk.len();
        if length > cap {
            return Err(Error::unexpected_answer(format!("an answer of more than {cap} bytes")));
        }
        chunks.push(chunk);
    }
    // An answer of one piece, as most are, is not copied, and a longer one once.
    if chunks.len() == 1 {
        return Ok(chunks.swap_remove(0));
    }
    let mut body = BytesMut::with_capacity(length);
    for chunk in chunks {
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// Finds every name at the address of one host.
struct Elsewhere {
    host: String,
}

impl Resolve for Elsewhere {
    fn resolve(&self, _name: Name) -> Resolving {
        let host = self.host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Box::pin(async move {
            let addresses: Vec<_> = tokio::net::lookup_host((host, 0)).await?.collect();
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}
