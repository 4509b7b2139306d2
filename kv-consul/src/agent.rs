//! One agent: the connections to it, and one attempt of a call.

use std::time::Duration;

use bytes::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use kv_core::{Error, HostPort, Result};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Response, Url};

use crate::arriving::Arriving;
use crate::config::Config;
use crate::error::{self, Kind};
use crate::tls;

/// A connection that nobody needs for so long is closed, and leaves its place at the agent to others.
const IDLE: Duration = Duration::from_secs(15);

/// A connection that carries nothing, not even an answer to this probe, is dead.
const KEEPALIVE: Duration = Duration::from_secs(10);

static X_CONSUL_TOKEN: HeaderName = HeaderName::from_static("x-consul-token");
static X_CONSUL_INDEX: HeaderName = HeaderName::from_static("x-consul-index");

/// An agent, with a pool of connections to it.
pub(crate) struct Agent {
    /// Where it is, for who is told of it.
    pub(crate) base: String,
    /// The URL of its root.
    root: Url,
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
    /// Whose entries are read while they arrive, if any are.
    pub(crate) prefix: Option<String>,
}

/// An answer of which nothing is known yet but that it came whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// `X-Consul-Index`, which only Consul sends, and only with what can be waited on.
    pub(crate) index: Option<u64>,
    pub(crate) body: Bytes,
    /// The entries that were read while they arrived; then only the beginning of the body is there.
    pub(crate) arriving: Option<Arriving>,
}

impl Agent {
    /// An agent to which no connect attempt takes longer than `connect`, and at most `idle` connections are kept.
    pub(crate) fn new(config: &Config, host: &HostPort, connect: Duration, idle: usize) -> Result<Self> {
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
            .pool_max_idle_per_host(idle)
            .pool_idle_timeout(IDLE)
            .connect_timeout(connect);
        builder = tls::prepare(builder, config.tls.as_ref())?;
        let mut asked = host.clone();
        if let Some(name) = &config.server_name {
            // The name in the URL is the one that TLS asks for and checks; only its address is the host's.
            builder = builder.dns_resolver(Elsewhere { host: host.host.clone() });
            asked.host.clone_from(name);
        }
        let http = builder.build().map_err(|error| error::transport(error, Kind::Repeatable))?;
        let scheme = if config.tls.is_some() { "https" } else { "http" };
        let [base, root] = [host, &asked].map(|host| format!("{scheme}://{}", host.with_port(8500)));
        let root = Url::parse(&root).map_err(|error| Error::invalid_address(format!("{root:?} is no URL: {error}")))?;
        Ok(Self { base, root, http })
    }

    /// Sends a request and reads the answer; 5xx and refusals are errors here, what else means something is not.
    pub(crate) async fn send(&self, request: &Request) -> Result<Answer> {
        let sending = self.http.execute(self.request(request));
        let response = sending.await.map_err(|error| error::transport(error, request.kind))?;
        let status = response.status();
        let index = response.headers().get(&X_CONSUL_INDEX).and_then(|value| value.to_str().ok()?.parse().ok());
        let cap = if status.is_success() { request.cap } else { request.cap.min(1 << 20) };
        let body = Body::new(response, request.kind, cap);
        if let Some(prefix) = request.prefix.as_deref().filter(|_| status == StatusCode::OK) {
            let (arriving, body) = body.entries(prefix).await?;
            return Ok(Answer { status, index, body, arriving: Some(arriving) });
        }
        let body = body.whole().await?;
        match status {
            StatusCode::OK | StatusCode::NOT_FOUND | StatusCode::CONFLICT | StatusCode::PAYLOAD_TOO_LARGE => {
                Ok(Answer { status, index, body, arriving: None })
            }
            _ => Err(error::from_answer(status, &body, request.kind)),
        }
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

/// The URL of a path and query below a root, which need not be parsed again.
fn url(root: &Url, target: &str) -> Url {
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let mut url = root.clone();
    url.set_path(path);
    url.set_query(query);
    url
}

/// A body of which at most `cap` bytes are read, so that no server can fill the memory.
struct Body {
    response: Response,
    kind: Kind,
    cap: usize,
    length: usize,
}

impl Body {
    fn new(response: Response, kind: Kind, cap: usize) -> Self {
        Self { response, kind, cap, length: 0 }
    }

    /// The next piece.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        let piece = self.response.chunk().await.map_err(|error| error::transport(error, self.kind))?;
        self.length += piece.as_ref().map_or(0, Bytes::len);
        if self.length > self.cap {
            return Err(Error::unexpected_answer(format!("an answer of more than {} bytes", self.cap)));
        }
        Ok(piece)
    }

    /// All of it: one piece, as most are, is not copied, and several once.
    async fn whole(mut self) -> Result<Bytes> {
        let mut pieces = Vec::new();
        while let Some(piece) = self.next().await? {
            pieces.push(piece);
        }
        Ok(if pieces.len() == 1 { pieces.swap_remove(0) } else { pieces.concat().into() })
    }

    /// The entries in it; and how it begins, to be quoted.
    async fn entries(mut self, prefix: &str) -> Result<(Arriving, Bytes)> {
        let (mut arriving, mut beginning) = (Arriving::new(prefix), Bytes::new());
        while let Some(piece) = self.next().await? {
            arriving.piece(&piece)?;
            if beginning.is_empty() {
                beginning = Bytes::copy_from_slice(&piece[..piece.len().min(error::EXCERPT)]);
            }
        }
        Ok((arriving, beginning))
    }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::path;
    use crate::read::tests::config;

    const ROOT: &str = "http://localhost:8500";

    fn sent(target: &str) -> String {
        let url = url(&Url::parse(ROOT).expect("a URL"), target);
        assert_eq!(url, Url::parse(&[ROOT, target].concat()).expect("a URL"));
        url.as_str().strip_prefix(ROOT).expect("below the root").to_owned()
    }

    #[test]
    fn a_target_is_sent_as_it_is() {
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
        fn every_key_is_sent_as_it_is(key in "[ -.0-~é鍵🔑]{3,9}(/[ -.0-~é鍵🔑]{3,9}){0,2}/?", value in any::<String>()) {
            let target = format!("{}?{}", path::kv(&key), path::parameter("dc", &value));
            prop_assert_eq!(sent(&target), target);
        }
    }
}
