//! Bad answers to calls: too long, too slow, too many, empty, or of the wrong kind.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use h2::Reason;
use http::{HeaderMap, HeaderValue, Response};
use kv_core::Error;
use tokio::time::sleep;

use crate::message::{framed, header, number, of_an_empty_store, page, text};
use crate::server::{Call, Mood, Server, good};
use crate::{connect, every_call, soon, start, survives, until, works_again};

#[tokio::test]
async fn a_message_of_four_gigabytes() {
    let (server, kv) = start().await;
    server.turn(Mood::to_each_call(|call| endless(call, u32::MAX)));
    let error = soon("get", kv.get("key")).await.expect_err("no answer");
    assert!(matches!(error, Error::UnexpectedAnswer { .. }), "{error:?}");
    let error = soon("set", kv.set("key", "value")).await.expect_err("no answer");
    assert!(matches!(error, Error::Indeterminate { .. }), "{error:?}");
    // No memory is allocated for it. The bytes that were sent are those that fit into buffers.
    assert!(server.counts.bytes() < 64 << 20, "{} bytes", server.counts.bytes());
    works_again("four gigabytes", &server, &kv).await;
    survives("four gigabytes", Mood::to_each_call(|call| endless(call, u32::MAX))).await;
}

/// Announces a message of some length, and sends bytes for ever.
async fn endless(mut call: Call, length: u32) {
    call.read().await;
    let mut answer = call.begin();
    answer.send([&[0], &length.to_be_bytes()[..]].concat()).await;
    while answer.send(vec![0; 64 << 10]).await {}
}

#[tokio::test]
async fn an_answer_a_byte_at_a_time() {
    survives("drips", Mood::to_each_call(drips)).await;
}

async fn drips(mut call: Call) {
    call.read().await;
    let mut answer = call.begin();
    for byte in framed(&[0; 4096]) {
        if !answer.send(vec![byte]).await {
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn answers_without_end() {
    survives("messages", Mood::to_each_call(messages)).await;
}

/// Sends good answers without end, where one is expected.
async fn messages(mut call: Call) {
    let message = framed(&of_an_empty_store(call.method()));
    call.read().await;
    let mut answer = call.begin();
    while answer.send(message.repeat(1000)).await {}
}

#[tokio::test]
async fn a_head_and_then_nothing() {
    survives("silence", Mood::to_each_call(silence)).await;
}

pub(crate) async fn silence(mut call: Call) {
    call.read().await;
    let _answer = call.begin();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn writes_that_are_not_answered_delay_no_others() {
    let server = Server::start().await;
    // Longer than the test, so that no write is given up before the others are done.
    let kv = connect(&server, "10m").await;
    let came = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&came);
    server.turn(Mood::to("Put", move |call| {
        let unanswered = counter.fetch_add(1, Ordering::SeqCst) < 2;
        async move { if unanswered { silence(call).await } else { good(call).await } }
    }));
    // The server has just ended the connection. A read is repeated on a new one; a write would not be.
    let _ = soon("a new connection", kv.get("key")).await;
    let mut writing = Vec::new();
    for number in 0..3 {
        // One after the other, so that no two travel together.
        soon("those before it are sent", async {
            while came.load(Ordering::SeqCst) < number {
                sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        let kv = kv.clone();
        writing.push(tokio::spawn(async move { kv.set(&format!("{number}"), "").await }));
    }
    until("the third", || writing.iter().any(tokio::task::JoinHandle::is_finished)).await;
    for done in writing.extract_if(.., |task| task.is_finished()) {
        done.await.expect("no panic").expect("an index");
    }
    assert_eq!(writing.len(), 2, "two are never answered");
    writing.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn garbage_instead_of_a_message() {
    let deep = |levels| (0..levels).fold(Vec::new(), |inner, _| text(3, &text(4, &inner)));
    let garbage = [
        ("ones", vec![0xff; 64]),
        ("a number for a message", number(1, 7)),
        ("a string for a number", [header(1), text(3, b"x"), text(2, b"x")].concat()),
        ("a field of four gigabytes", vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f]),
        ("a message in a message, and so on", deep(2000)),
        ("groups in groups, and so on", vec![0x0b; 100_000]),
        ("nothing", Vec::new()),
        ("the beginning of history", header(0)),
        ("before the beginning of history", header(i64::MIN)),
    ];
    for (what, bytes) in garbage {
        let answer = move |call: Call| {
            let bytes = bytes.clone();
            async move { call.answer(&bytes).await }
        };
        does_no_harm(what, Mood::to_each_call(answer)).await;
    }
}

/// As [`survives`], for answers that some calls may accept. A deletion, for example, reads nothing in its answer.
async fn does_no_harm(what: &str, mood: Mood) {
    let (server, kv) = start().await;
    server.turn(mood);
    for (call, error) in every_call(&kv).await {
        let typed =
            matches!(error, Error::Unavailable { .. } | Error::Indeterminate { .. } | Error::UnexpectedAnswer { .. });
        // An empty answer to a transaction says that its conditions do not hold.
        assert!(typed || error.is_conflict() || error.is_key_not_found(), "{what}: {call}: {error:?}");
    }
    works_again(what, &server, &kv).await;
}

#[tokio::test]
async fn no_message_at_all() {
    let errors = survives("success", Mood::to_each_call(|call| ends(call, true))).await;
    assert!(errors.iter().all(|(_, error)| !error.is_retryable()), "{errors:?}");
    survives("an end without a status", Mood::to_each_call(|call| ends(call, false))).await;
}

async fn ends(mut call: Call, successfully: bool) {
    call.read().await;
    let mut answer = call.begin();
    if successfully { answer.finish(0, "") } else { answer.end() }
}

#[tokio::test]
async fn resets() {
    for reason in [Reason::PROTOCOL_ERROR, Reason::REFUSED_STREAM, Reason::CANCEL, Reason::ENHANCE_YOUR_CALM] {
        let mood = Mood::to_each_call(move |call| resets_after_reading(call, reason));
        survives(&format!("{reason}"), mood).await;
    }
}

pub(crate) async fn resets_after_reading(mut call: Call, reason: Reason) {
    call.read().await;
    call.begin().reset(reason);
}

#[tokio::test]
async fn every_status_with_a_long_text() {
    for status in 1..=20 {
        let (server, kv) = start().await;
        server.turn(Mood::to_each_call(move |call| fails(call, status)));
        for (call, error) in every_call(&kv).await {
            let text = error.to_string();
            assert!(text.len() < 1000, "status {status}: {call}: {} bytes", text.len());
        }
        works_again("long texts", &server, &kv).await;
    }
}

async fn fails(mut call: Call, status: u16) {
    call.read().await;
    call.begin().finish(status, &"x".repeat(10_000));
}

#[tokio::test]
async fn trailers_of_a_megabyte() {
    let errors = survives("trailers", Mood::to_each_call(long_trailers)).await;
    assert!(errors.iter().all(|(_, error)| !error.to_string().contains("xxx")), "{errors:?}");
}

async fn long_trailers(mut call: Call) {
    call.read().await;
    let mut answer = call.begin();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    for number in 0..1000 {
        let name = http::HeaderName::try_from(format!("x-{number}")).expect("a name");
        trailers.insert(name, HeaderValue::from_str(&"x".repeat(1000)).expect("a value"));
    }
    answer.send(framed(&of_an_empty_store("Range"))).await;
    answer.trailers(trailers);
    call.ended().await;
}

#[tokio::test]
async fn answers_of_another_protocol() {
    for (status, kind) in [(200, "text/html"), (302, "text/html"), (404, "text/plain"), (500, "application/json")] {
        survives(&format!("{status} {kind}"), Mood::to_each_call(move |call| page_of_the_web(call, status, kind)))
            .await;
    }
}

pub(crate) async fn page_of_the_web(mut call: Call, status: u16, kind: &str) {
    call.read().await;
    let response = Response::builder().status(status).header("content-type", kind).header("location", "/elsewhere");
    if let Ok(mut stream) = call.respond.send_response(response.body(()).expect("a response"), false) {
        let _ = stream.send_data("<html>welcome</html>".into(), true);
    }
    call.ended().await;
}

#[tokio::test]
async fn a_listing_whose_pages_go_backwards() {
    let (server, kv) = start().await;
    server.turn(Mood::to("Range", |call| async move { call.answer(&page(&["b", "a"], b"", true)).await }));
    for error in [soon("get_all", kv.get_all("b")).await.err(), soon("keys", kv.keys("b")).await.err()] {
        assert!(matches!(error, Some(Error::UnexpectedAnswer { .. })), "{error:?}");
    }
    works_again("circles", &server, &kv).await;
}

#[tokio::test]
async fn a_listing_without_end() {
    let (server, kv) = start().await;
    let pages = Arc::new(AtomicUsize::new(0));
    server.turn(Mood::to("Range", move |call| {
        let number = pages.fetch_add(1, Ordering::SeqCst);
        async move { call.answer(&page(&[&format!("key/{number:09}")], &vec![0; 1 << 20], true)).await }
    }));
    for error in [soon("get_all", kv.get_all("")).await.err(), soon("keys", kv.keys("key")).await.err()] {
        let typed = matches!(error, Some(Error::UnexpectedAnswer { .. } | Error::Unavailable { .. }));
        assert!(typed, "{error:?}");
    }
    assert!(server.counts.bytes() < 3 << 30, "{} bytes", server.counts.bytes());
    works_again("a listing without end", &server, &kv).await;
}

/// Refusals after which a client asks for less, or repeats the call. It must stop at some time.
#[tokio::test]
async fn refusals_that_ask_for_another_attempt() {
    for (status, text) in [
        (8, "trying to send message larger than max"),
        (11, "Error, decoded message length too large"),
        (11, "etcdserver: mvcc: required revision has been compacted"),
        (9, "etcdserver: lease already exists"),
        (3, "etcdserver: revision of auth store is old"),
        (16, "etcdserver: invalid auth token"),
        (14, "etcdserver: no leader"),
    ] {
        let (server, kv) = start().await;
        server.turn(Mood::to_each_call(move |call| refuses(call, status, text)));
        let errors = every_call(&kv).await;
        assert_eq!(errors.len(), 12, "{text}: {errors:?}");
        works_again(text, &server, &kv).await;
    }
}

pub(crate) async fn refuses(mut call: Call, status: u16, text: &str) {
    call.read().await;
    call.begin().finish(status, text);
}
