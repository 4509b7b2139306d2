//! One agent: the connections to it, and one attempt of a request.

use std::time::Duration;

use bytes::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use kv_core::backend::HostPort;
use kv_core::backend::fate::Idempotence;
use kv_core::{Error, Result};
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::tls::Tls;
use crate::api::answer::Answer;
use crate::config::Config;
use crate::error;

/// A connection that is idle for this long is closed, so that its place at the agent is free for others.
const IDLE: Duration = Duration::from_secs(15);

/// A connection that carries nothing for this long, not even an answer to a probe, is dead.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// The most bytes that are read of an answer that reports an error.
const ERROR_BYTES: usize = 1 << 20;

static X_CONSUL_TOKEN: HeaderName = HeaderName::from_static("x-consul-token");
static X_CONSUL_INDEX: HeaderName = HeaderName::from_static("x-consul-index");

/// An agent, with a pool of connections to it.
pub(super) struct Agent {
    /// Its address, for events.
    pub(super) base: String,
    /// The URL of its root.
    root: Url,
    http: reqwest::Client,
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
    /// An agent with at most `idle` idle connections. No attempt to connect takes longer than `connect`.
    pub(super) fn new(config: &Config, host: &HostPort, tls: &Tls, connect: Duration, idle: usize) -> Result<Self> {
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
            .connect_timeout(connect);
        builder = tls.prepare(builder);
        let mut asked = host.clone();
        if let Some(name) = &config.server_name {
            // TLS sends and checks the name in the URL. The address to connect to is still the host's.
            builder = builder.dns_resolver(Elsewhere { host: host.host.clone() });
            asked.host.clone_from(name);
        }
        let http = builder.build().map_err(|error| error::transport(error, Idempotence::Repeatable))?;
        let scheme = if config.tls.is_some() { "https" } else { "http" };
        let [base, root] = [host, &asked].map(|host| format!("{scheme}://{}", host.with_port(8500)));
        let root = Url::parse(&root).map_err(|error| Error::invalid_address(format!("{root:?} is no URL: {error}")))?;
        Ok(Self { base, root, http })
    }

    /// Sends a request, and returns the answer before its body has been read.
    pub(super) async fn send(&self, request: &Request) -> Result<Response> {
        let sending = self.http.execute(self.request(request));
        let http = sending.await.map_err(|error| error::transport(error, request.idempotence))?;
        let status = http.status();
        let index = http.headers().get(&X_CONSUL_INDEX).and_then(|value| value.to_str().ok()?.parse().ok());
        let cap = if status.is_success() { request.cap } else { request.cap.min(ERROR_BYTES) };
        Ok(Response { status, index, idempotence: request.idempotence, cap, length: 0, http })
    }

    fn request(&self, request: &Request) -> reqwest::Request {
        let mut http = reqwest::Request::new(request.method.clone(), url(&self.root, &request.target));
        if !request.body.is_empty() {
            http.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            *http.body_mut() = Some(request.body.clone().into());
        }
        http
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

/// An answer whose body is still on its way. At most `cap` bytes of it are read, so that no server can fill the memory.
pub(crate) struct Response {
    pub(crate) status: StatusCode,
    pub(crate) index: Option<u64>,
    idempotence: Idempotence,
    cap: usize,
    length: usize,
    http: reqwest::Response,
}

impl Response {
    /// The next piece of the body.
    pub(crate) async fn piece(&mut self) -> Result<Option<Bytes>> {
        let piece = self.http.chunk().await.map_err(|error| error::transport(error, self.idempotence))?;
        self.length += piece.as_ref().map_or(0, Bytes::len);
        if self.length > self.cap {
            return Err(Error::unexpected_answer(format!("an answer of more than {} bytes", self.cap)));
        }
        Ok(piece)
    }

    /// Reads the whole body. Server errors and refusals are errors; other statuses mean something to their calls.
    pub(crate) async fn whole(mut self) -> Result<Answer> {
        let mut pieces = Vec::new();
        while let Some(piece) = self.piece().await? {
            pieces.push(piece);
        }
        // Most bodies are one piece, which is not copied.
        let body = if pieces.len() == 1 { pieces.swap_remove(0) } else { pieces.concat().into() };
        match self.status {
            StatusCode::OK | StatusCode::NOT_FOUND | StatusCode::CONFLICT | StatusCode::PAYLOAD_TOO_LARGE => {
                Ok(Answer { status: self.status, index: self.index, body })
            }
            status => Err(error::from_answer(status, &body, self.idempotence)),
        }
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
