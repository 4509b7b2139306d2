//! One connection to one endpoint: TCP, TLS, HTTP/2, and the first call that proves it.
//!
//! The connection is made here rather than by a channel that reconnects in secret, so that it is known of every
//! request whether it was sent (clause W6).

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::HeaderValue;
use http::header::USER_AGENT;
use http::uri::PathAndQuery;
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::metadata::AsciiMetadataValue;
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::config::Endpoint;
use crate::error::{NotSent, Unreachable, chain};
use crate::proto::{Call, StatusRequest};

/// A quiet connection is asked for a sign of life this often, while something waits on it. etcd closes connections
/// that ask more often than every 5 s (`--grpc-keepalive-min-time`).
const KEEP_ALIVE: Duration = Duration::from_secs(6);
/// How long the sign of life may take.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(4);
/// What may be under way on one stream and on the connection: large listings are not to wait for window updates.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// The most bytes of one message: memory for it is set aside as soon as its length is known, and what it says may take
/// many times as much. What etcd sends at a time is either small or asked for in smaller parts when it is refused.
const MESSAGE: usize = 64 << 20;

/// A connection to an etcd member that had a leader when it was made.
pub(crate) struct Connection {
    grpc: Sender,
    origin: http::Uri,
    /// Which of the configured endpoints it leads to.
    pub(crate) endpoint: usize,
    driver: Driver,
}

impl Connection {
    /// Connects, and asks the member who leads.
    pub(crate) async fn open(endpoint: &Endpoint, index: usize) -> Result<Self, Unreachable> {
        let tcp = TcpStream::connect(&endpoint.address).await;
        let tcp = tcp.map_err(|error| Unreachable::for_now(format!("cannot connect: {error}")))?;
        tcp.set_nodelay(true).map_err(|error| Unreachable::for_now(error.to_string()))?;
        let (sender, driver) = match &endpoint.tls {
            Some(tls) => handshake(tls.handshake(tcp).await?).await?,
            None => handshake(tcp).await?,
        };
        let origin = endpoint.origin.clone();
        let mut connection = Self { grpc: Sender(sender), origin, endpoint: index, driver };
        match connection.prove().await {
            Ok(true) => Ok(connection),
            Ok(false) => Err(Unreachable::leaderless()),
            Err(status) => {
                let ended = connection.driver.reason().await;
                Err(Unreachable::from_first_call(&status, ended.as_deref(), endpoint.tls.is_some()))
            }
        }
    }

    /// Whether it cannot take another request.
    pub(crate) fn is_closed(&self) -> bool {
        self.grpc.0.is_closed()
    }

    /// One request, one answer.
    pub(crate) async fn unary<C: Call>(
        &self,
        request: C,
        token: Option<AsciiMetadataValue>,
    ) -> Result<C::Answer, Status> {
        let mut grpc = self.grpc().await?;
        let path = PathAndQuery::from_static(C::METHOD);
        let answer = grpc.unary(with_metadata(request, token), path, ProstCodec::<C, C::Answer>::default()).await?;
        Ok(answer.into_inner())
    }

    /// A stream of requests, a stream of answers.
    pub(crate) async fn stream<Q, A>(
        &self,
        method: &'static str,
        requests: impl futures_core::Stream<Item = Q> + Send + 'static,
        token: Option<AsciiMetadataValue>,
    ) -> Result<Streaming<A>, Status>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let mut grpc = self.grpc().await?;
        let path = PathAndQuery::from_static(method);
        let answer = grpc.streaming(with_metadata(requests, token), path, ProstCodec::<Q, A>::default()).await?;
        Ok(answer.into_inner())
    }

    async fn grpc(&self) -> Result<Grpc<Sender>, Status> {
        let mut grpc = Grpc::with_origin(self.grpc.clone(), self.origin.clone()).max_decoding_message_size(MESSAGE);
        grpc.ready().await.map_err(Status::from_error)?;
        Ok(grpc)
    }

    /// Whether it is an etcd member that has a leader, for only that is worth sending to. A server that does not
    /// answer shows here, before any request is at stake.
    async fn prove(&self) -> Result<bool, Status> {
        match self.unary(StatusRequest {}, None).await {
            Ok(member) if member.is_learner => {
                Err(Status::unavailable("it is a learner, which does not serve clients"))
            }
            Ok(member) => Ok(member.leader != 0),
            // It is etcd all right, and keeps its status to those who are logged in.
            Err(status) if matches!(status.code(), Code::PermissionDenied | Code::Unauthenticated) => Ok(true),
            Err(status) if status.message().ends_with("user name is empty") => Ok(true),
            Err(status) => Err(status),
        }
    }
}

fn with_metadata<T>(message: T, token: Option<AsciiMetadataValue>) -> Request<T> {
    let mut request = Request::new(message);
    // A member cut off from its cluster refuses at once instead of letting the caller wait.
    request.metadata_mut().insert("hasleader", AsciiMetadataValue::from_static("true"));
    if let Some(token) = token {
        request.metadata_mut().insert("token", token);
    }
    request
}

/// Moves the bytes; dropping it ends the connection.
struct Driver(JoinHandle<Option<hyper::Error>>);

impl Driver {
    /// Why the connection ended, if it did: a request that met the end may know less.
    async fn reason(&mut self) -> Option<String> {
        let ended = timeout(Duration::from_millis(100), &mut self.0).await;
        ended.ok()?.ok()?.map(|error| chain(&error))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn handshake<T>(io: T) -> Result<(SendRequest<Body>, Driver), Unreachable>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .handshake(TokioIo::new(io))
        .await
        .map_err(|error| Unreachable::for_now(format!("HTTP/2 could not be begun: {error}")))?;
    let driver = tokio::spawn(async move {
        let error = connection.await.err()?;
        tracing::debug!(%error, "a connection to etcd ended");
        Some(error)
    });
    Ok((sender, Driver(driver)))
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// HTTP/2 requests as tonic sends them, with the knowledge whether they were sent.
#[derive(Clone)]
struct Sender(SendRequest<Body>);

impl tower_service::Service<http::Request<Body>> for Sender {
    type Response = http::Response<Incoming>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx).map_err(|error| NotSent(error).into())
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        const AGENT: HeaderValue = HeaderValue::from_static(concat!("kv-etcd/", env!("CARGO_PKG_VERSION")));
        request.headers_mut().insert(USER_AGENT, AGENT);
        let answer = self.0.try_send_request(request);
        Box::pin(async move {
            answer.await.map_err(|mut failed| {
                // Hyper gives the request back only if none of it was sent.
                let unsent = failed.take_message().is_some();
                let error = failed.into_error();
                if unsent { NotSent(error).into() } else { error.into() }
            })
        })
    }
}
