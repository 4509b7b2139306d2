//! HTTP/2 to one server: requests out, answers back, and signs of life in between.
//!
//! This speaks to h2 itself. A client on top of it sends the head of a request, its body and its end one after the
//! other, and each of the three packets wakes the server; here they leave in one. It is also known of every request
//! whether it was sent (clause W6).

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
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::body::Body;

use crate::error::{NotGrpc, NotSent};
use crate::transport::frames::Observed;
use crate::transport::health::{Health, Signs, Waiting, look_after};

/// How much the calls on a connection send or receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Volume {
    Small,
    /// So much that others would wait for it on the same connection.
    Large,
}

impl Volume {
    /// The windows of one stream and of the connection: how many bytes the server may send ahead.
    ///
    /// For large answers, so many that they do not wait for window updates. For small ones, few: an answer that turns
    /// out to be large must not fill the line, because nothing overtakes what is on its way.
    fn windows(self) -> (u32, u32) {
        match self {
            Self::Small => (256 << 10, 1 << 20),
            Self::Large => (4 << 20, 16 << 20),
        }
    }
}

/// The most that the head of an answer may take, in bytes.
const HEAD: u32 = 16 << 10;
/// So many streams of cancelled calls are remembered, for so long, so that what the server still sends for them is
/// dropped instead of being answered.
const RESET_STREAMS: usize = 1024;
const RESET_STREAM_DURATION: Duration = Duration::from_secs(10);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Begins HTTP/2.
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
        // Without a limit for the life of the connection, or the cancelled calls of one caller would end it for all.
        .max_local_error_reset_streams(None)
        .handshake(Observed::new(io, Arc::clone(&signs)))
        .await?;
    let task = tokio::spawn(drive(connection, Arc::clone(&signs)));
    Ok((Sender { requests, signs: Arc::clone(&signs), is_call: true }, Driver { task, signs }))
}

/// Moves the bytes; dropping it ends the connection.
pub(crate) struct Driver {
    task: JoinHandle<Option<String>>,
    signs: Arc<Signs>,
}

impl Driver {
    /// Whether the connection has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    /// Why the connection ended, if it did: a request that met the end may know less.
    pub(crate) async fn reason(&mut self) -> Option<String> {
        timeout(Duration::from_millis(100), &mut self.task).await.ok()?.ok()?
    }

    pub(crate) fn health(&self) -> Health {
        self.signs.health()
    }

    /// Waits until the server is in this state, or in a worse one.
    pub(crate) async fn worsens_to(&self, health: Health) {
        self.signs.worsens_to(health).await;
    }

    /// Notes that an answer is due, until the guard is dropped.
    pub(crate) fn expect_answer(&self) -> Waiting {
        Waiting::new(&self.signs, true)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn drive<T>(mut connection: Connection<T>, signs: Arc<Signs>) -> Option<String>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let pings = connection.ping_pong();
    let reason = tokio::select! {
        // What has arrived is taken before anything is concluded from silence.
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
    /// Whether its requests are answered as soon as the server can, unlike streams of events.
    is_call: bool,
}

impl Sender {
    /// How many streams the server takes at once (`SETTINGS_MAX_CONCURRENT_STREAMS`).
    pub(crate) fn most_in_flight(&self) -> usize {
        self.requests.current_max_send_streams()
    }

    /// For streams whose answers may come at any time.
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
            // What is there already leaves with the head; a body that goes on is sent beside the answer.
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

/// The error of a request that has no answer. The server may have said that it did not process the request: by refusing
/// its stream, or by leaving and naming an earlier one as its last (RFC 9113, sections 6.8 and 8.7).
fn unanswered(error: h2::Error, stream: u32, signs: &Signs) -> BoxError {
    let refused = error.is_remote() && error.reason() == Some(Reason::REFUSED_STREAM);
    if refused || signs.is_unprocessed(stream) { NotSent(error).into() } else { error.into() }
}

/// Refuses an answer that is not gRPC, before anything in it is taken for the server's word.
fn check_protocol(answer: &Response<RecvStream>) -> Result<(), NotGrpc> {
    let kind = answer.headers().get(CONTENT_TYPE);
    if answer.status() == StatusCode::OK && kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
        return Ok(());
    }
    let kind = kind.map(|kind| String::from_utf8_lossy(kind.as_bytes()).into_owned());
    Err(NotGrpc { status: answer.status(), kind })
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

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadBuf, duplex};
    use tokio::time::sleep;
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

    fn head() -> Response<()> {
        Response::builder().header(CONTENT_TYPE, "application/grpc").body(()).expect("a head")
    }

    /// Answers each request with its own body, piece by piece.
    async fn echo(end: DuplexStream) {
        let mut server = h2::server::handshake(end).await.expect("HTTP/2");
        while let Some(Ok((request, mut respond))) = server.accept().await {
            tokio::spawn(async move {
                let mut body = request.into_body();
                let mut answer = respond.send_response(head(), false).expect("an answer");
                while let Some(Ok(piece)) = body.data().await {
                    let _ = answer.send_data(piece, false);
                }
                let _ = answer.send_trailers(http::HeaderMap::new());
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
        let (mut sender, _driver) =
            handshake(Recorded { end, writes: Arc::clone(&writes) }, Volume::Small).await.expect("HTTP/2");
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
        let (mut sender, _driver) = handshake(end, Volume::Small).await.expect("HTTP/2");
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
        let (mut sender, mut driver) = handshake(end, Volume::Small).await.expect("HTTP/2");
        sleep(Duration::from_secs(60)).await;
        assert!(!driver.has_ended() && driver.health() == Health::Good, "nobody waits");

        let began = tokio::time::Instant::now();
        let waiting = sender.call(request(http_body_util::Empty::new()));
        let noticing = async {
            driver.worsens_to(Health::Unresponsive).await;
            assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
            driver.worsens_to(Health::Silent).await;
            assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
        };
        let (answer, ()) = tokio::join!(waiting, noticing);
        let error = answer.err().expect("no answer comes");
        assert!(!error.is::<NotSent>(), "{error}");
        assert_eq!(driver.reason().await.as_deref(), Some("no sign of life"));
        let error = sender.call(request(http_body_util::Empty::new())).await.err().expect("the connection has ended");
        assert!(error.is::<NotSent>(), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_is_quiet_for_long_is_not_unresponsive() {
        let (end, server) = duplex(1 << 16);
        let silent = tokio::spawn(async move {
            let mut server = h2::server::handshake(server).await.expect("HTTP/2");
            let mut kept = Vec::new();
            while let Some(request) = server.accept().await {
                kept.push(request);
            }
        });
        let (sender, driver) = handshake(end, Volume::Small).await.expect("HTTP/2");
        let waiting = sender.for_streams().call(request(http_body_util::Empty::new()));
        let quiet = timeout(Duration::from_secs(120), waiting).await;
        assert!(quiet.is_err() && driver.health() == Health::Good);
        silent.abort();
    }

    /// Greets, and leaves as soon as it was asked something, with a goodbye that names this as the last stream.
    async fn says_goodbye(mut end: DuplexStream, last_stream: u8) {
        const GREETING: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
        let goodbye = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, last_stream, 0, 0, 0, 0];
        end.write_all(GREETING).await.expect("a client");
        let mut heard = Vec::new();
        while !heard.windows(b"what is asked".len()).any(|part| part == b"what is asked") {
            end.read_buf(&mut heard).await.expect("a client");
        }
        end.write_all(&goodbye).await.expect("a client");
        end.shutdown().await.expect("a client");
    }

    #[tokio::test]
    async fn a_goodbye_tells_what_was_not_processed() {
        for (last_stream, processed) in [(0, false), (1, true)] {
            let (end, server) = duplex(1 << 16);
            tokio::spawn(says_goodbye(server, last_stream));
            let (mut sender, _driver) = handshake(end, Volume::Small).await.expect("HTTP/2");
            let body = http_body_util::Full::new(Bytes::from_static(b"what is asked"));
            let error = sender.call(request(body)).await.err().expect("no answer comes");
            assert_eq!(!error.is::<NotSent>(), processed, "{error}");
        }
    }

    #[tokio::test]
    async fn cancelled_calls_do_not_end_the_connection() {
        let (end, server) = duplex(1 << 16);
        tokio::spawn(echo(server));
        let (mut sender, driver) = handshake(end, Volume::Small).await.expect("HTTP/2");
        for _ in 0..3000 {
            let call = sender.call(request(http_body_util::Full::new(Bytes::from_static(&[0; 100]))));
            drop(timeout(Duration::ZERO, call).await);
            tokio::task::yield_now().await;
        }
        sender.call(request(http_body_util::Empty::new())).await.expect("it still answers");
        assert!(!driver.has_ended());
    }
}
