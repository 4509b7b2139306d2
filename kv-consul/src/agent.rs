//! One agent: the connections to it, and one attempt of a call.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::http::uri::{Authority, Parts, PathAndQuery, Scheme};
use hyper::{Method, StatusCode, Uri};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kv_core::{Error, HostPort, Result, Source};
use tower_service::Service;

use crate::arriving::Arriving;
use crate::config::Config;
use crate::error::{self, Kind};
use crate::tls::{self, Connector};

/// A connection that nobody needs for so long is closed, and leaves its place at the agent to others.
const IDLE: Duration = Duration::from_secs(15);

/// A connection that carries nothing, not even an answer to this probe, is dead.
const KEEPALIVE: Duration = Duration::from_secs(10);

static X_CONSUL_TOKEN: HeaderName = HeaderName::from_static("x-consul-token");
static X_CONSUL_INDEX: HeaderName = HeaderName::from_static("x-consul-index");

/// An agent, with a pool of connections to it.
pub(crate) struct Agent {
    scheme: Scheme,
    authority: Authority,
    /// What every request carries.
    headers: HeaderMap,
    http: hyper_util::client::legacy::Client<Bounded<Connector>, Full<Bytes>>,
}

/// A request, for any agent.
pub(crate) struct Request {
    pub(crate) method: Method,
    /// The path and the query.
    pub(crate) target: PathAndQuery,
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
        let scheme = if config.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
        let host = host.with_port(8500);
        let authority = Authority::try_from(&*host)
            .map_err(|error| Error::invalid_address(format!("{host:?} is no host: {error}")))?;
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(KEEPALIVE));
        tcp.set_keepalive_interval(Some(KEEPALIVE / 4));
        tcp.set_keepalive_retries(Some(3));
        let connector = tls::connector(tcp, config.tls.as_ref(), config.server_name.as_deref())?;
        let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(idle)
            .build(Bounded { connector, limit: connect });
        Ok(Self { scheme, authority, headers, http })
    }

    /// Where it is, for who is told of it.
    pub(crate) fn base(&self) -> String {
        format!("{}://{}", self.scheme, self.authority)
    }

    /// Sends a request and reads the answer; 5xx and refusals are errors here, what else means something is not.
    pub(crate) async fn send(&self, request: &Request) -> Result<Answer> {
        let sending = self.http.request(self.request(request)?);
        let response = sending.await.map_err(|error| {
            let unsent = error.is_connect();
            error::transport(error, unsent, request.kind)
        })?;
        let status = response.status();
        let index = response.headers().get(&X_CONSUL_INDEX).and_then(|value| value.to_str().ok()?.parse().ok());
        let cap = if status.is_success() { request.cap } else { request.cap.min(1 << 20) };
        let body = Body::new(response.into_body(), request.kind, cap);
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

    fn request(&self, request: &Request) -> Result<hyper::Request<Full<Bytes>>> {
        let mut parts = Parts::default();
        parts.scheme = Some(self.scheme.clone());
        parts.authority = Some(self.authority.clone());
        parts.path_and_query = Some(request.target.clone());
        let uri = Uri::from_parts(parts)
            .map_err(|error| Error::unavailable("the request has no valid URL").with_source(error))?;
        let mut http = hyper::Request::new(Full::new(request.body.clone()));
        *http.method_mut() = request.method.clone();
        *http.uri_mut() = uri;
        http.headers_mut().clone_from(&self.headers);
        if !request.body.is_empty() {
            http.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        Ok(http)
    }
}

/// A body of which at most `cap` bytes are read, so that no server can fill the memory.
struct Body {
    incoming: Incoming,
    kind: Kind,
    cap: usize,
    length: usize,
}

impl Body {
    fn new(incoming: Incoming, kind: Kind, cap: usize) -> Self {
        Self { incoming, kind, cap, length: 0 }
    }

    /// The next piece.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        while let Some(frame) = self.incoming.frame().await {
            let frame = frame.map_err(|error| error::transport(error, false, self.kind))?;
            // Trailers, which Consul does not send, mean nothing.
            let Ok(piece) = frame.into_data() else { continue };
            self.length += piece.len();
            if self.length > self.cap {
                return Err(Error::unexpected_answer(format!("an answer of more than {} bytes", self.cap)));
            }
            return Ok(Some(piece));
        }
        Ok(None)
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

/// A connector whose attempts take a limited time, the handshake of TLS included.
#[derive(Clone)]
struct Bounded<C> {
    connector: C,
    limit: Duration,
}

impl<C> Service<Uri> for Bounded<C>
where
    C: Service<Uri, Error: Into<Source>, Future: Send + 'static>,
{
    type Response = C::Response;
    type Error = Source;
    type Future = Pin<Box<dyn Future<Output = Result<C::Response, Source>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Source>> {
        Poll::Ready(ready!(self.connector.poll_ready(cx)).map_err(Into::into))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (connecting, limit) = (self.connector.call(uri), self.limit);
        Box::pin(async move {
            match tokio::time::timeout(limit, connecting).await {
                Ok(result) => result.map_err(Into::into),
                Err(_elapsed) => Err(format!("no connection within {limit:?}").into()),
            }
        })
    }
}
