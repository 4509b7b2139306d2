//! One agent: the connections to it, and one attempt of a request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use kv_core::backend::HostPort;
use kv_core::backend::fate::Idempotence;
use kv_core::{Error, Result};
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tower::limit::GlobalConcurrencyLimitLayer;

use super::budget::{CallPermit, LARGE, opening};
use super::departure::{Departing, Departure};
use super::failure::failure;
use super::tls::Tls;
use crate::api::answer::Answer;
use crate::config::Config;
use crate::error::{Reply, from_answer, refuses_size};

/// The timeout of one attempt to connect, whatever the timeout of the call.
pub(super) const CONNECT: Duration = Duration::from_secs(2);

/// A connection that is idle for this long is closed, so that the agent has room for another.
const IDLE: Duration = Duration::from_secs(15);

/// A connection that carries nothing for this long, not even an answer to a probe, is dead.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// The most bytes that are read of an answer that reports an error.
const ERROR_BYTES: usize = 1 << 20;

/// How many writes get a connection of their own after a connection has ended under a write. The system keeps a closed
/// connection's port for a minute, so it must not be very many.
const WARY: usize = 1000;

static X_CONSUL_TOKEN: HeaderName = HeaderName::from_static("x-consul-token");
static X_CONSUL_INDEX: HeaderName = HeaderName::from_static("x-consul-index");

/// An agent, with a pool of connections to it.
pub(super) struct Agent {
    /// Host and port, for errors and events.
    pub(super) address: Arc<str>,
    /// The URL of its root.
    root: Url,
    pooled: reqwest::Client,
    /// Makes a connection for each request.
    fresh: reqwest::Client,
    /// How many more writes get a connection of their own.
    wary: AtomicUsize,
    /// Whether a background task probes it.
    pub(super) probed: AtomicBool,
}

/// A request, for any agent.
pub(super) struct Request {
    pub(super) method: Method,
    /// The path and the query.
    pub(super) target: String,
    pub(super) body: Bytes,
    pub(super) idempotence: Idempotence,
    /// The most bytes that are read of the answer.
    pub(super) cap: usize,
}

impl Agent {
    /// An agent with at most `idle` idle connections.
    pub(super) fn new(config: &Config, host: &HostPort, tls: &Tls, idle: usize) -> Result<Self> {
        let mut headers = HeaderMap::new();
        if let Some(token) = &config.token {
            headers.insert(&X_CONSUL_TOKEN, token.clone());
        }
        if let Some(authorization) = &config.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        let opening = GlobalConcurrencyLimitLayer::new(opening(config.connections));
        let builder = |idle| {
            reqwest::Client::builder()
                .default_headers(headers.clone())
                .redirect(reqwest::redirect::Policy::none())
                .retry(reqwest::retry::never())
                .referer(false)
                // Explicit, because another part of the program may have switched on reqwest's features.
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
                .pool_max_idle_per_host(idle)
                .pool_idle_timeout(IDLE)
                .connector_layer(opening.clone())
                .connect_timeout(CONNECT)
        };
        let address: Arc<str> = host.with_port(8500).into();
        let build = |idle| {
            let mut builder = tls.prepare(builder(idle));
            if config.server_name.is_some() {
                builder = builder.dns_resolver(Elsewhere { host: host.host.clone() });
            }
            builder.build().map_err(|error| failure(error, &address, None))
        };
        let (pooled, fresh) = (build(idle)?, build(0)?);
        let mut asked = host.clone();
        if let Some(name) = &config.server_name {
            // TLS sends and checks the name in the URL. The address to connect to is still the host's.
            asked.host.clone_from(name);
        }
        let scheme = if config.tls.is_some() { "https" } else { "http" };
        let root = format!("{scheme}://{}", asked.with_port(8500));
        let root = Url::parse(&root).map_err(|error| Error::invalid_address(format!("{root:?} is no URL: {error}")))?;
        Ok(Self { address, root, pooled, fresh, wary: AtomicUsize::new(0), probed: AtomicBool::new(false) })
    }

    /// Sends a request, and returns the answer before its body has been read. A write leaves only if its `departure`
    /// permits it.
    pub(super) async fn send(
        self: &Arc<Self>,
        request: &Request,
        departure: Option<&Arc<Departure>>,
    ) -> Result<Response> {
        let client = if departure.is_some() && self.is_wary() { &self.fresh } else { &self.pooled };
        let http = client.execute(self.request(request, departure)).await.map_err(|error| {
            let has_left = departure.is_none_or(|departure| !departure.withdraw());
            if departure.is_some() && has_left {
                self.wary.store(WARY, Ordering::Relaxed);
            }
            failure(error, &self.address, has_left.then_some(request.idempotence))
        })?;
        let status = http.status();
        let index = http.headers().get(&X_CONSUL_INDEX).and_then(|value| value.to_str().ok()?.parse().ok());
        let cap = if status.is_success() { request.cap } else { request.cap.min(ERROR_BYTES) };
        let sizes = Sizes { sent: request.body.len(), path: request.target.len() };
        let (agent, idempotence) = (self.clone(), request.idempotence);
        Ok(Response { status, index, idempotence, cap, length: 0, agent, sizes, http, permit: None })
    }

    fn request(&self, request: &Request, departure: Option<&Arc<Departure>>) -> reqwest::Request {
        let mut http = reqwest::Request::new(request.method.clone(), url(&self.root, &request.target));
        if !request.body.is_empty() {
            http.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            let body = request.body.clone();
            *http.body_mut() = Some(match departure {
                Some(departure) => reqwest::Body::wrap(Departing::new(body, departure.clone())),
                None => body.into(),
            });
        }
        http
    }

    /// Whether a write gets a new connection, because one ended under a write not many writes ago.
    ///
    /// Something in between may close each connection after an answer. A write on a connection that is just being closed
    /// is indeterminate.
    fn is_wary(&self) -> bool {
        self.wary.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    /// Claims the one background probe of this agent.
    pub(super) fn begin_probe(&self) -> bool {
        !self.probed.swap(true, Ordering::AcqRel)
    }

    pub(super) fn end_probe(&self) {
        self.probed.store(false, Ordering::Release);
    }
}

/// The URL of a path and query below a root, without parsing the root again.
fn url(root: &Url, target: &str) -> Url {
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let mut url = root.clone();
    url.set_path(path);
    url.set_query(query);
    url
}

/// The sizes of a request's parts, in bytes.
struct Sizes {
    sent: usize,
    path: usize,
}

/// An answer whose body is still on its way. At most `cap` bytes of it are read, so that no server can fill the memory.
pub(crate) struct Response {
    pub(crate) status: StatusCode,
    pub(crate) index: Option<u64>,
    idempotence: Idempotence,
    cap: usize,
    length: usize,
    agent: Arc<Agent>,
    sizes: Sizes,
    http: reqwest::Response,
    /// Given back when the body has been read; `None` for a blocking query.
    pub(super) permit: Option<CallPermit>,
}

impl Response {
    /// The next piece of the body.
    pub(crate) async fn piece(&mut self) -> Result<Option<Bytes>> {
        let piece = self.http.chunk().await;
        let piece = piece.map_err(|error| failure(error, &self.agent.address, Some(self.idempotence)))?;
        self.length += piece.as_ref().map_or(0, Bytes::len);
        if let Some(permit) = &self.permit
            && (piece.is_none() || self.length >= LARGE)
        {
            permit.note(self.length >= LARGE);
        }
        if self.length > self.cap {
            let what = format!("{} sent an answer of more than {} bytes", self.agent.address, self.cap);
            return Err(match self.idempotence {
                Idempotence::Repeatable => Error::unexpected_answer(what),
                Idempotence::Once => Error::indeterminate(what),
            });
        }
        Ok(piece)
    }

    /// Whether the meaning of the status depends on the call. Every other status is an error for every call.
    fn is_for_calls(&self) -> bool {
        match self.status {
            StatusCode::OK | StatusCode::NOT_FOUND | StatusCode::CONFLICT => true,
            StatusCode::PAYLOAD_TOO_LARGE => self.is_plain(),
            _ => false,
        }
    }

    /// Whether the answer has the form of Consul's errors: a line of uncompressed text.
    fn is_plain(&self) -> bool {
        let headers = self.http.headers();
        let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
        !headers.contains_key(CONTENT_ENCODING) && kind.is_none_or(|kind| kind.starts_with(b"text/plain"))
    }

    /// Reads the answer if it is an error for every call, and returns that error.
    pub(super) async fn judged(mut self) -> Result<Self> {
        if self.is_for_calls() {
            return Ok(self);
        }
        let body = self.body().await?;
        Err(self.error(&body))
    }

    /// Reads the whole body.
    pub(crate) async fn whole(mut self) -> Result<Answer> {
        let body = self.body().await?;
        if self.status == StatusCode::PAYLOAD_TOO_LARGE && !refuses_size(&body) {
            return Err(self.error(&body));
        }
        Ok(Answer { status: self.status, index: self.index, body, idempotence: self.idempotence })
    }

    fn error(&self, body: &[u8]) -> Error {
        from_answer(&Reply {
            agent: &self.agent.address,
            status: self.status,
            is_plain: self.is_plain(),
            body,
            idempotence: self.idempotence,
            sent: self.sizes.sent,
            path: self.sizes.path,
        })
    }

    async fn body(&mut self) -> Result<Bytes> {
        let mut pieces = Vec::new();
        while let Some(piece) = self.piece().await? {
            pieces.push(piece);
        }
        // Most bodies are a single piece, which is not copied.
        Ok(if pieces.len() == 1 { pieces.swap_remove(0) } else { pieces.concat().into() })
    }
}

/// Resolves every name to the addresses of one host.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::api::arbitrary::config;
    use crate::api::path;

    const ROOT: &str = "http://localhost:8500";

    fn sent(target: &str) -> String {
        let url = url(&Url::parse(ROOT).expect("a URL"), target);
        assert_eq!(url, Url::parse(&[ROOT, target].concat()).expect("a URL"));
        url.as_str().strip_prefix(ROOT).expect("below the root").to_owned()
    }

    #[test]
    fn a_target_is_sent_unchanged() {
        for key in [
            "a",
            "a b",
            "a+b%20",
            "%2F%2e",
            "a//b",
            "/a",
            "a/",
            "a?b#c",
            "a\\b",
            "a/...",
            ".a/b..",
            "é\t🔑",
            "|{}^`'\"<>",
        ] {
            for query in ["", "?raw", "?keys&separator=%2F&dc=a%26b%27", "?a=?&b=+"] {
                let target = [&path::kv(key), query].concat();
                assert_eq!(sent(&target), target);
            }
        }
    }

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn every_key_is_sent_unchanged(key in "[ -.0-~é鍵🔑]{3,9}(/[ -.0-~é鍵🔑]{3,9}){0,2}/?", value in any::<String>()) {
            let target = format!("{}?{}", path::kv(&key), path::parameter("dc", &value));
            prop_assert_eq!(sent(&target), target);
        }
    }
}
