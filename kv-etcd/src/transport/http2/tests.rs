//! HTTP/2 with servers in memory: what is written, and when a connection ends.

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

/// One end of a connection. It records each write.
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

/// Answers each request with the body of the request, piece by piece.
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
async fn a_streamed_body_is_sent_piece_by_piece() {
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
async fn a_connection_to_a_silent_server_ends_if_a_call_waits() {
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
async fn a_quiet_stream_does_not_make_the_server_unresponsive() {
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

/// Sends its settings, and ends the connection after the first request, with a GOAWAY that names this last stream.
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
async fn a_goaway_says_which_requests_were_not_processed() {
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
