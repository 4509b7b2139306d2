//! HTTP/2 to one server: requests out, answers back, and signs of life in between.
//!
//! This speaks to h2 itself. A client on top of it sends the head of a request, its body and its end one after the
//! other, and each of the three packets wakes the server; here they leave in one. It is also known of every request
//! whether it was sent (clause W6).

use std::future::{Future, pending};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::StreamExt as _;
use futures_util::{FutureExt as _, poll};
use h2::client::{Builder, Connection, SendRequest};
use h2::{Ping, PingPong, Reason, RecvStream, SendStream};
use http::header::USER_AGENT;
use http::{HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::BodyExt as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tonic::body::Body;

use crate::error::NotSent;

/// A connection that something waits on is asked for a sign of life this often. etcd closes connections that ask more
/// often than every 5 s (`--grpc-keepalive-min-time`).
const KEEP_ALIVE: Duration = Duration::from_secs(6);
/// How long the sign of life may take.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(4);
/// The windows of one stream and of the connection, so large that a listing does not wait for window updates.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// The most that the head of an answer may take, in bytes.
const HEAD: u32 = 16 << 10;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Begins HTTP/2.
pub(crate) async fn handshake<T>(io: T) -> Result<(Sender, Driver), h2::Error>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (requests, connection) = Builder::new()
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEAD)
        .handshake(io)
        .await?;
    let users = Arc::new(());
    let driver = Driver(tokio::spawn(drive(connection, Arc::clone(&users))));
    Ok((Sender { requests, users }, driver))
}

/// Moves the bytes; dropping it ends the connection.
pub(crate) struct Driver(JoinHandle<Option<String>>);

impl Driver {
    /// Whether the connection has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.0.is_finished()
    }

    /// Why the connection ended, if it did: a request that met the end may know less.
    pub(crate) async fn reason(&mut self) -> Option<String> {
        timeout(Duration::from_millis(100), &mut self.0).await.ok()?.ok()?
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn drive<T>(mut connection: Connection<T>, users: Arc<()>) -> Option<String>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let pings = connection.ping_pong();
    let reason = tokio::select! {
        biased;
        ended = connection => ended.err()?.to_string(),
        () = silence(pings, users) => format!("no sign of life within {KEEP_ALIVE_TIMEOUT:?}"),
    };
    tracing::debug!(reason, "a connection to etcd ended");
    Some(reason)
}

/// Ends when the server, asked for a sign of life, gives none.
async fn silence(pings: Option<PingPong>, users: Arc<()>) {
    /// This task, and the connection.
    const NOBODY_ELSE: usize = 2;
    let Some(mut pings) = pings else { return pending().await };
    loop {
        sleep(KEEP_ALIVE).await;
        if Arc::strong_count(&users) == NOBODY_ELSE {
            continue;
        }
        match timeout(KEEP_ALIVE_TIMEOUT, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The connection has ended, and says why.
            Ok(Err(_)) => return pending().await,
            Err(_elapsed) => return,
        }
    }
}

/// Sends requests.
#[derive(Clone)]
pub(crate) struct Sender {
    requests: SendRequest<Bytes>,
    /// Shared by all who wait for something from the connection.
    users: Arc<()>,
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
        let users = Arc::clone(&self.users);
        Box::pin(async move {
            let (answer, stream) = sent.map_err(NotSent)?;
            // What is there already leaves with the head; a body that goes on is sent beside the answer.
            let mut sending = Box::pin(send_body(body, stream));
            if sending.as_mut().now_or_never().is_none() {
                tokio::spawn(sending);
            }
            Ok(answer.await?.map(|stream| Answer { stream, _users: users }))
        })
    }
}

/// Sends a body, its end together with its last piece if that is known by then.
async fn send_body(body: Body, mut stream: SendStream<Bytes>) {
    let mut pieces = pin!(body.into_data_stream().peekable());
    while let Some(piece) = pieces.next().await {
        let Ok(piece) = piece else { return stream.send_reset(Reason::INTERNAL_ERROR) };
        let is_last = matches!(poll!(pieces.as_mut().peek()), Poll::Ready(None));
        if stream.send_data(piece, is_last).is_err() || is_last {
            return;
        }
        // The next piece is not taken before this one has left.
        stream.reserve_capacity(1);
        if !matches!(std::future::poll_fn(|cx| stream.poll_capacity(cx)).await, Some(Ok(_))) {
            return;
        }
    }
    let _ = stream.send_data(Bytes::new(), true);
}

/// The body of an answer, as it comes.
pub(crate) struct Answer {
    stream: RecvStream,
    _users: Arc<()>,
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
        // A server that has answered in full may cut off the rest of the request in this way.
        let cut_off = matches!(&frame, Some(Err(error)) if error.reason() == Some(Reason::NO_ERROR));
        Poll::Ready(if cut_off { None } else { frame })
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Mutex, PoisonError};

    use tokio::io::{DuplexStream, ReadBuf, duplex};
    use tower_service::Service as _;

    use super::*;

    const DATA: u8 = 0;
    const END_STREAM: u8 = 1;
    const HEADERS: u8 = 1;
    const END_HEADERS: u8 = 4;

    /// One end of a connection, with what was written to it, each write by itself.
    struct Recorded {
        end: DuplexStream,
        writes: Arc<Mutex<Vec<Vec<u8>>>>,
    }

    impl AsyncRead for Recorded {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.end).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Recorded {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            let written = ready!(Pin::new(&mut self.end).poll_write(cx, buf))?;
            self.writes.lock().unwrap_or_else(PoisonError::into_inner).push(buf[..written].to_vec());
            Poll::Ready(Ok(written))
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.end).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.end).poll_shutdown(cx)
        }
    }

    fn request(body: impl http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static) -> Request<Body> {
        let mut request = Request::new(Body::new(body));
        *request.uri_mut() = http::Uri::from_static("http://server/method");
        request
    }

    /// Answers each request with its own body, piece by piece.
    async fn echo(end: DuplexStream) {
        let mut server = h2::server::handshake(end).await.expect("HTTP/2");
        while let Some(Ok((request, mut respond))) = server.accept().await {
            tokio::spawn(async move {
                let mut body = request.into_body();
                let mut answer = respond.send_response(Response::new(()), false).expect("an answer");
                while let Some(piece) = body.data().await {
                    answer.send_data(piece.expect("a piece"), false).expect("a piece of the answer");
                }
                answer.send_trailers(http::HeaderMap::new()).expect("the end of the answer");
            });
        }
    }

    /// The types and flags of the frames in one write.
    fn frames(mut write: &[u8]) -> Vec<(u8, u8)> {
        let mut frames = Vec::new();
        while let [a, b, c, kind, flags, ..] = *write {
            frames.push((kind, flags));
            write = &write[9 + usize::from_be_bytes([0, 0, 0, 0, 0, a, b, c])..];
        }
        frames
    }

    #[tokio::test]
    async fn a_request_leaves_in_one_write() {
        let (end, server) = duplex(1 << 16);
        tokio::spawn(echo(server));
        let writes = Arc::default();
        let (mut sender, _driver) = handshake(Recorded { end, writes: Arc::clone(&writes) }).await.expect("HTTP/2");
        let body = Bytes::from_static(b"what is asked");
        let answer = sender.call(request(http_body_util::Full::new(body.clone()))).await.expect("an answer");
        assert_eq!(answer.into_body().collect().await.expect("a body").to_bytes(), body);

        let writes = writes.lock().unwrap_or_else(PoisonError::into_inner);
        let with_body: Vec<_> = writes.iter().filter(|write| write.ends_with(&body)).collect();
        assert_eq!(with_body.len(), 1, "{writes:?}");
        assert!(frames(with_body[0]).ends_with(&[(HEADERS, END_HEADERS), (DATA, END_STREAM)]), "{writes:?}");
    }

    #[tokio::test]
    async fn a_body_that_goes_on_is_sent_as_it_comes() {
        let (end, server) = duplex(1 << 16);
        tokio::spawn(echo(server));
        let (mut sender, _driver) = handshake(end).await.expect("HTTP/2");
        let (pieces, body) = tokio::sync::mpsc::channel::<Bytes>(1);
        let body = futures_util::stream::unfold(body, |mut body| async { Some((body.recv().await?, body)) });
        let frames = body.map(|piece| Ok::<_, BoxError>(Frame::data(piece)));
        let answer = sender.call(request(http_body_util::StreamBody::new(frames))).await.expect("an answer");
        let mut answer = answer.into_body();
        for piece in ["one", "two"] {
            pieces.send(piece.into()).await.expect("somebody sends it");
            let frame = answer.frame().await.expect("a frame").expect("a piece");
            assert_eq!(frame.into_data().expect("data"), piece);
        }
        drop(pieces);
        assert!(answer.frame().await.expect("a frame").expect("trailers").is_trailers());
        assert!(answer.frame().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_gives_no_sign_of_life_is_left_once_somebody_waits() {
        let (end, _silent) = duplex(1 << 16);
        let (mut sender, mut driver) = handshake(end).await.expect("HTTP/2");
        sleep(10 * KEEP_ALIVE).await;
        assert!(!driver.has_ended(), "nobody waits");

        let error = sender.call(request(http_body_util::Empty::new())).await.err().expect("no answer comes");
        assert!(!error.is::<NotSent>(), "{error}");
        assert_eq!(driver.reason().await.as_deref(), Some("no sign of life within 4s"));
        let error = sender.call(request(http_body_util::Empty::new())).await.err().expect("the connection has ended");
        assert!(error.is::<NotSent>(), "{error}");
    }
}
