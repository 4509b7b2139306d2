//! HTTP/2 to one server: sends requests, receives answers, and detects a dead server.
//!
//! This module uses the crate h2 directly. Clients on top of it send the head, the body and the end of a request in
//! three packets, each of which wakes the server. This module sends them in one. It also knows whether a request was
//! sent ([clause W6](kv_core::contract::CLAUSES#W6)).

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::StreamExt as _;
use futures_util::{FutureExt as _, poll};
use h2::client::{Builder, Connection, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::BodyExt as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Mutex;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::timeout;
use tonic::body::Body;

use crate::error::{NotGrpc, NotSent};
use crate::transport::frames::Observed;
use crate::transport::health::{Health, Signs, Waiting, look_after};

/// How much the calls on a connection send or receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Volume {
    Small,
    /// So much that other calls on the same connection would wait for it.
    Large,
}

impl Volume {
    /// The windows of one stream and of the connection: how many bytes the server may send ahead.
    ///
    /// The connection for large answers has large windows, so that an answer does not wait for window updates. The
    /// other one has small windows: an unexpectedly large answer must not delay the small ones behind it for long.
    fn windows(self) -> (u32, u32) {
        match self {
            Self::Small => (256 << 10, 1 << 20),
            Self::Large => (4 << 20, 16 << 20),
        }
    }
}

/// The most bytes of the head of an answer.
const HEAD: u32 = 16 << 10;
/// This many streams of cancelled calls are remembered, for this long. What the server still sends on them is dropped;
/// on a forgotten stream, the client would answer it with a reset.
const RESET_STREAMS: usize = 1024;
const RESET_STREAM_DURATION: Duration = Duration::from_secs(10);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Starts HTTP/2 on a connection.
pub(crate) async fn handshake<T>(io: T, volume: Volume) -> Result<(Sender, Driver), h2::Error>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let signs = Arc::new(Signs::default());
    let (stream_window, connection_window) = volume.windows();
    let (requests, connection) = Builder::new()
        .enable_push(false)
        .initial_window_size(stream_window)
        .initial_connection_window_size(connection_window)
        .max_header_list_size(HEAD)
        .max_concurrent_reset_streams(RESET_STREAMS)
        .reset_stream_duration(RESET_STREAM_DURATION)
        // No limit: h2 counts these over the life of the connection, so that one caller's cancelled calls would end it.
        .max_local_error_reset_streams(None)
        // Likewise: the budget for small frames counts those of cancelled calls over the life of the connection.
        .data_frame_budget(usize::MAX)
        .handshake(Observed::new(io, Arc::clone(&signs)))
        .await?;
    let task = tokio::spawn(drive(connection, Arc::clone(&signs)));
    let driver = Driver { end: task.abort_handle(), task: Mutex::new(task), signs: Arc::clone(&signs) };
    Ok((Sender { requests, signs, is_call: true }, driver))
}

/// The task that sends and receives. Dropping it ends the connection.
pub(crate) struct Driver {
    task: Mutex<JoinHandle<Option<String>>>,
    end: AbortHandle,
    signs: Arc<Signs>,
}

impl Driver {
    /// Whether the connection has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.end.is_finished()
    }

    /// Why the connection ended, if it did: a request that met the end may know less.
    pub(crate) async fn reason(&self) -> Option<String> {
        let mut task = self.task.lock().await;
        timeout(Duration::from_millis(100), &mut *task).await.ok()?.ok()?
    }

    pub(crate) fn health(&self) -> Health {
        self.signs.health()
    }

    /// Waits until the server is in this state or in a worse one.
    pub(crate) async fn worsens_to(&self, health: Health) {
        self.signs.worsens_to(health).await;
    }

    /// Notes that the server owes an answer, until the guard is dropped.
    pub(crate) fn expect_answer(&self) -> Waiting {
        Waiting::new(&self.signs, true)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.end.abort();
    }
}

async fn drive<T>(mut connection: Connection<T>, signs: Arc<Signs>) -> Option<String>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let pings = connection.ping_pong();
    let reason = tokio::select! {
        // Bytes that have arrived count before silence does.
        biased;
        ended = connection => ended.err()?.to_string(),
        () = look_after(pings, signs) => "no sign of life".to_owned(),
    };
    tracing::debug!(reason, "a connection to etcd ended");
    Some(reason)
}

/// Sends requests.
#[derive(Clone)]
pub(crate) struct Sender {
    requests: SendRequest<Bytes>,
    signs: Arc<Signs>,
    /// Whether the server owes an answer to each request, unlike on streams of events.
    is_call: bool,
}

impl Sender {
    /// How many streams the server takes at once (`SETTINGS_MAX_CONCURRENT_STREAMS`).
    pub(crate) fn most_in_flight(&self) -> usize {
        self.requests.current_max_send_streams()
    }

    /// A sender for streams whose answers may come at any time.
    pub(crate) fn for_streams(&self) -> Self {
        Self { is_call: false, ..self.clone() }
    }
}

impl tower_service::Service<Request<Body>> for Sender {
    type Response = Response<Answer>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.requests.poll_ready(cx).map_err(|error| NotSent(error).into())
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        const AGENT: HeaderValue = HeaderValue::from_static(concat!("kv-etcd/", env!("CARGO_PKG_VERSION")));
        let (mut head, body) = request.into_parts();
        head.headers.insert(USER_AGENT, AGENT);
        let sent = self.requests.send_request(Request::from_parts(head, ()), false);
        let (signs, waiting) = (Arc::clone(&self.signs), Waiting::new(&self.signs, self.is_call));
        Box::pin(async move {
            let (answer, stream) = sent.map_err(NotSent)?;
            let number = stream.stream_id().as_u32();
            // The part of the body that is ready leaves with the head. The rest is sent while the answer arrives.
            let mut sending = Box::pin(send_body(body, stream));
            if sending.as_mut().now_or_never().is_none() {
                tokio::spawn(sending);
            }
            let answer = answer.await.map_err(|error| unanswered(error, number, &signs))?;
            check_protocol(&answer)?;
            Ok(answer.map(|stream| Answer { stream, _waiting: waiting }))
        })
    }
}

/// The error of a request without an answer. The server can state that it did not process the request: it refuses the
/// stream, or sends a GOAWAY that names an earlier stream as the last one (RFC 9113, sections 6.8 and 8.7).
fn unanswered(error: h2::Error, stream: u32, signs: &Signs) -> BoxError {
    let refused = error.is_remote() && error.reason() == Some(Reason::REFUSED_STREAM);
    if refused || signs.is_unprocessed(stream) { NotSent(error).into() } else { error.into() }
}

/// Refuses an answer that is not gRPC, before anything in it counts as an answer from etcd.
fn check_protocol(answer: &Response<RecvStream>) -> Result<(), NotGrpc> {
    let kind = answer.headers().get(CONTENT_TYPE);
    if answer.status() == StatusCode::OK && kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
        return Ok(());
    }
    let kind = kind.map(|kind| String::from_utf8_lossy(kind.as_bytes()).into_owned());
    Err(NotGrpc { status: answer.status(), kind })
}

/// Sends a body. Its end is sent with its last piece, if it is known by then that the piece is the last.
async fn send_body(body: Body, mut stream: SendStream<Bytes>) {
    let mut pieces = pin!(body.into_data_stream().peekable());
    while let Some(piece) = pieces.next().await {
        let Ok(piece) = piece else { return stream.send_reset(Reason::INTERNAL_ERROR) };
        let is_last = matches!(poll!(pieces.as_mut().peek()), Poll::Ready(None));
        if stream.send_data(piece, is_last).is_err() || is_last {
            return;
        }
        // Wait until this piece has left before the next one is taken.
        stream.reserve_capacity(1);
        if !matches!(std::future::poll_fn(|cx| stream.poll_capacity(cx)).await, Some(Ok(_))) {
            return;
        }
    }
    let _ = stream.send_data(Bytes::new(), true);
}

/// The body of an answer, as it arrives.
pub(crate) struct Answer {
    stream: RecvStream,
    _waiting: Waiting,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = match ready!(self.stream.poll_data(cx)) {
            Some(Ok(data)) => {
                self.stream.flow_control().release_capacity(data.len())?;
                Some(Ok(Frame::data(data)))
            }
            Some(Err(error)) => Some(Err(error)),
            None => ready!(self.stream.poll_trailers(cx)).transpose().map(|trailers| trailers.map(Frame::trailers)),
        };
        // With this code a server that has answered completely stops the rest of the request.
        let cut_off = matches!(&frame, Some(Err(error)) if error.reason() == Some(Reason::NO_ERROR));
        Poll::Ready(if cut_off { None } else { frame })
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }
}

#[cfg(test)]
mod tests;
