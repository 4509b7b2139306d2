//! Broken HTTP/2: frames of impossible sizes, windows that never open, floods, and GOAWAY.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::message::{framed, of_an_empty_store};
use crate::server::{Call, Counts, Mood, good};
use crate::{in_a_second, soon, start, survives, works_again};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

/// A frame with the right length.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a length");
    [&head(length, kind, flags, stream), payload].concat()
}

fn head(length: u32, kind: u8, flags: u8, stream: u32) -> Vec<u8> {
    [&length.to_be_bytes()[1..], &[kind, flags], &stream.to_be_bytes()].concat()
}

/// Sends the settings of HTTP/2, then these bytes again and again. It ignores what the client sends.
async fn floods(mut stream: TcpStream, counts: Counts, piece: Vec<u8>) {
    if stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.is_err() {
        return;
    }
    let (mut reading, mut writing) = stream.split();
    let ignoring = async {
        let mut ignored = [0; 4096];
        while let Ok(1..) = reading.read(&mut ignored).await {}
    };
    let flooding = async {
        while writing.write_all(&piece).await.is_ok() {
            counts.add_bytes(piece.len());
        }
    };
    tokio::select! {
        () = ignoring => {}
        () = flooding => {}
    }
}

#[tokio::test]
async fn frames_that_break_the_protocol() {
    let pieces = [
        ("a frame of 16 MiB", [head(0xff_ffff, DATA, 0, 1), vec![0; 1 << 20]].concat()),
        ("data for no stream", frame(DATA, 0, 77, &[0; 1000])),
        ("data for stream 0", frame(DATA, 0, 0, &[0; 1000])),
        ("a head without end", [frame(HEADERS, 0, 1, b""), frame(CONTINUATION, 0, 1, &[0; 1000]).repeat(100)].concat()),
        ("settings", frame(SETTINGS, 0, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff])),
        ("garbage", vec![0xaa; 1000]),
    ];
    for (what, piece) in pieces {
        survives(what, Mood::to_each_connection(move |stream, counts| floods(stream, counts, piece.clone()))).await;
    }
}

#[tokio::test]
async fn frames_without_an_answer() {
    // Each of these is allowed. Pings and settings require an answer from the client.
    let pieces = [
        ("pings", frame(PING, 0, 0, &[0; 8]).repeat(100)),
        ("settings", frame(SETTINGS, 0, 0, &[]).repeat(100)),
        ("frames of no known kind", frame(99, 0, 0, &[0; 1000]).repeat(10)),
    ];
    for (what, piece) in pieces {
        survives(what, Mood::to_each_connection(move |stream, counts| floods(stream, counts, piece.clone()))).await;
    }
}

#[tokio::test]
async fn settings_a_byte_at_a_time() {
    survives("a slow greeting", Mood::to_each_connection(greets_slowly)).await;
}

async fn greets_slowly(mut stream: TcpStream, _counts: Counts) {
    let settings = [frame(SETTINGS, 0, 0, &[]), frame(PING, 0, 0, &[0; 8]).repeat(1000)].concat();
    for byte in settings {
        if stream.write_all(&[byte]).await.is_err() {
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_window_that_never_opens() {
    // The value is larger than the window and the buffers of the sockets.
    let (server, kv) = start().await;
    server.turn(Mood::to_each_connection(|stream, _counts| keeps_its_window_shut(stream)));
    let value = vec![0_u8; 1 << 20];
    for _ in 0..3 {
        let error = soon("set", kv.set("key", value.clone())).await.expect_err("it was never read");
        let typed = matches!(error, kv_core::Error::Unavailable { .. } | kv_core::Error::Indeterminate { .. });
        assert!(typed, "{error:?}");
    }
    works_again("no window", &server, &kv).await;
}

/// Serves small requests, and never opens the window for a large one.
async fn keeps_its_window_shut(stream: TcpStream) {
    let server = h2::server::Builder::new().initial_window_size(100).handshake::<_, bytes::Bytes>(stream).await;
    let Ok(mut connection) = server else { return };
    let mut calls = Vec::new();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        if request.uri().path().ends_with("Status") {
            let response = http::Response::builder().header("content-type", "application/grpc").body(());
            let Ok(mut stream) = respond.send_response(response.expect("a response"), false) else { return };
            let _ = stream.send_data(framed(&of_an_empty_store("Status")).into(), false);
            let trailers = http::HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-status"),
                http::HeaderValue::from_static("0"),
            )]);
            let _ = stream.send_trailers(trailers);
        }
        // Keeps both, so that neither stream ends.
        calls.push((request, respond));
    }
}

#[tokio::test]
async fn a_goaway_to_each_call() {
    survives("a goodbye", Mood::to_each_connection(says_goodbye)).await;

    let (server, kv) = start().await;
    let watch = soon("a watch", kv.watch("", 0)).await.expect("a good server");
    server.turn(Mood::to_each_connection(says_goodbye));
    let connections = in_a_second(|| server.counts.connections()).await;
    assert!((1..60).contains(&connections), "{connections} connections in a second");
    drop(watch);
    works_again("goodbyes", &server, &kv).await;
}

/// Serves `Status`, and ends the connection at the next call.
async fn says_goodbye(stream: TcpStream, counts: Counts) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        let call = Call::new(request, respond, counts.clone());
        if call.is_status() {
            tokio::spawn(good(call));
        } else {
            connection.abrupt_shutdown(h2::Reason::ENHANCE_YOUR_CALM);
        }
    }
}

#[tokio::test]
async fn goaway_instead_of_settings() {
    let goodbye = frame(GOAWAY, 0, 0, &[0; 8]);
    survives("goodbye", Mood::to_each_connection(move |stream, counts| floods(stream, counts, goodbye.clone()))).await;
}
