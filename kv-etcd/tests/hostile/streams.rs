//! Bad streams of watches and of renewals: endless fragments, revisions that go backwards, unknown numbers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kv_core::{Error, Event, Kv, Watch};

use crate::message::{framed, header, number, text, watch_canceled, watch_created, watch_events};
use crate::server::{Call, Mood, Server};
use crate::{PANICS, in_a_second, open_watch, soon, start, works_again};

/// A client with a watch that the server has confirmed. Then the server does this to its stream.
async fn watching<F: Future<Output = ()> + Send + 'static>(
    act: impl Fn(Call) -> F + Send + Sync + 'static,
) -> (Server, Kv, Watch) {
    let (server, kv) = start().await;
    server.turn(Mood::to("Watch", act));
    let watch = open_watch(&kv).await;
    (server, kv, watch)
}

async fn next(watch: &mut Watch) -> kv_core::Result<Event> {
    soon("an event", watch.next()).await.expect("an item")
}

async fn confirms(call: &mut Call) -> crate::server::Answer {
    call.read().await;
    let mut answer = call.begin();
    // The revision is beyond that of any watch.
    answer.send(framed(&watch_created(1, i64::MAX))).await;
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_in_fragments_without_end() {
    let (server, kv, mut watch) = watching(fragments).await;
    let error = next(&mut watch).await.expect_err("no event");
    assert!(matches!(error, Error::UnexpectedAnswer { .. }), "{error:?}");
    assert!(soon("the end", watch.next()).await.is_none());
    // The limit for one revision, and what fits into buffers.
    assert!(server.counts.bytes() < 300 << 20, "{} bytes", server.counts.bytes());
    works_again("fragments", &server, &kv).await;
}

async fn fragments(mut call: Call) {
    let mut answer = confirms(&mut call).await;
    let fragment = framed(&watch_events(1, &[7], &vec![0; 1 << 20], true));
    while answer.send(fragment.clone()).await {}
}

#[tokio::test]
async fn events_never_go_backwards() {
    let lives = Arc::new(AtomicUsize::new(0));
    let (server, kv, mut watch) = watching(move |call| backwards(call, lives.fetch_add(1, Ordering::SeqCst))).await;
    // A stream ends with the first event that is out of order. Events that are in order are delivered once.
    let mut indices = Vec::new();
    while indices.last() != Some(&30) {
        indices.push(next(&mut watch).await.expect("an event").index);
    }
    assert_eq!(indices, [5, 6, 10, 20, 30]);
    drop(watch);
    works_again("backwards", &server, &kv).await;
}

async fn backwards(mut call: Call, life: usize) {
    let mut answer = confirms(&mut call).await;
    let lives: [&[&[i64]]; 3] = [&[&[5, 6], &[9, 7, 8]], &[&[10], &[0, -1, i64::MIN, 3], &[20], &[25, 22]], &[&[30]]];
    for revisions in lives[life.min(2)] {
        answer.send(framed(&watch_events(1, revisions, b"", false))).await;
    }
    call.ended().await;
}

#[tokio::test]
async fn a_revision_beyond_all_others() {
    let (server, kv, mut watch) = watching(|call| beyond(call, &[i64::MAX - 1, i64::MAX, i64::MAX])).await;
    for index in [i64::MAX - 1, i64::MAX, i64::MAX] {
        assert_eq!(next(&mut watch).await.expect("an event").index, index.cast_unsigned());
    }
    drop(watch);
    works_again("beyond", &server, &kv).await;
}

async fn beyond(mut call: Call, revisions: &'static [i64]) {
    let mut answer = confirms(&mut call).await;
    answer.send(framed(&watch_events(1, revisions, b"", false))).await;
    call.ended().await;
}

#[tokio::test]
async fn events_without_a_key() {
    let (server, kv, mut watch) = watching(nameless).await;
    // A key that is not UTF-8 and an empty event are left out.
    assert_eq!(next(&mut watch).await.expect("an event").index, 9);
    drop(watch);
    works_again("nameless", &server, &kv).await;
}

async fn nameless(mut call: Call) {
    let mut answer = confirms(&mut call).await;
    let broken = text(11, &text(2, &[text(1, b"\xff"), number(2, 5), number(3, 5)].concat()));
    let events = [header(1), number(2, 1), text(11, b""), text(11, &number(1, 99)), broken].concat();
    answer.send(framed(&events)).await;
    answer.send(framed(&watch_events(1, &[9], b"", false))).await;
    call.ended().await;
}

#[tokio::test]
async fn a_refusal_with_a_long_text() {
    let (server, kv, mut watch) = watching(refuses).await;
    let error = next(&mut watch).await.expect_err("a refusal");
    assert!(matches!(error, Error::PermissionDenied { .. }), "{error:?}");
    assert!(error.to_string().len() < 1000 && format!("{error:?}").len() < 5000, "{} bytes", error.to_string().len());
    works_again("words", &server, &kv).await;
}

async fn refuses(mut call: Call) {
    let mut answer = confirms(&mut call).await;
    let reason = ["permission denied", &"x".repeat(5 << 20)].concat();
    answer.send(framed(&watch_canceled(1, reason.as_bytes()))).await;
    call.ended().await;
}

#[tokio::test]
async fn a_stream_that_keeps_ending_is_opened_after_growing_pauses() {
    type Life = fn(Call) -> crate::server::Act;
    let lives: [(&str, Life); 3] = [
        ("ended", |mut call| Box::pin(async move { confirms(&mut call).await.finish(0, "") })),
        ("reset", |mut call| {
            Box::pin(async move {
                let mut answer = confirms(&mut call).await;
                // A reset would overtake bytes that are not sent yet.
                tokio::time::sleep(Duration::from_millis(5)).await;
                answer.reset(h2::Reason::INTERNAL_ERROR);
            })
        }),
        ("canceled", |mut call| {
            Box::pin(async move {
                let mut answer = confirms(&mut call).await;
                answer.send(framed(&watch_canceled(1, b"a whim"))).await;
                call.ended().await;
            })
        }),
    ];
    for (what, life) in lives {
        let (server, kv, watch) = watching(life).await;
        let streams = in_a_second(|| server.counts.watches()).await;
        assert!((1..60).contains(&streams), "{what}: {streams} streams in a second");
        drop(watch);
        works_again(what, &server, &kv).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_events_for_unknown_watches_does_not_stop_other_calls() {
    let (server, kv, watch) = watching(flood).await;
    for _ in 0..10 {
        let error = soon("get", kv.get("key")).await.expect_err("an empty store");
        assert!(error.is_key_not_found() || error.is_retryable(), "{error:?}");
    }
    drop(watch);
    works_again("a flood", &server, &kv).await;
}

async fn flood(mut call: Call) {
    let mut answer = confirms(&mut call).await;
    let messages = [framed(&watch_created(77, 1)), framed(&watch_events(99, &[5], b"", true)), framed(b"")].concat();
    while answer.send(messages.repeat(1000)).await {}
}

const TTL: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_lease_with_an_impossible_time_to_live() {
    for ttl in [0, -1, i64::MIN, i64::MAX, 9_000_000_001] {
        let (server, kv) = start().await;
        server.turn(Mood::to("LeaseGrant", move |call| async move {
            call.answer(&[header(1), number(3, ttl)].concat()).await;
        }));
        let error = soon("ephemeral_key", kv.ephemeral_key("key", TTL)).await.expect_err("no lease");
        assert!(matches!(error, Error::UnexpectedAnswer { .. } | Error::Unavailable { .. }), "{ttl}: {error:?}");
        let error = soon("lock", kv.lock("key", TTL)).await.expect_err("no lease");
        assert!(matches!(error, Error::UnexpectedAnswer { .. }), "{ttl}: {error:?}");
        works_again("no time", &server, &kv).await;
    }
}

#[tokio::test]
async fn meaningless_renewals() {
    let answers = [
        number(3, 0),
        number(3, i64::MIN),
        [number(2, 12345), number(3, 10)].concat(),
        Vec::new(),
        vec![0xff; 100],
        text(2, b"x"),
    ];
    for message in answers {
        let (server, kv) = start().await;
        let key = soon("ephemeral_key", kv.ephemeral_key("key", TTL)).await.expect("a good server");
        let message = framed(&message);
        server.turn(Mood::to("LeaseKeepAlive", move |call| repeats(call, message.clone())));
        let error = soon("renew", key.renew()).await.expect_err("no renewal");
        let typed = matches!(error, Error::Lost { .. } | Error::Unavailable { .. } | Error::UnexpectedAnswer { .. });
        assert!(typed, "{error:?}");
        drop(key);
        works_again("renewals", &server, &kv).await;
    }
    assert_eq!(PANICS.load(Ordering::SeqCst), 0);
}

/// Sends the same message once a millisecond, whatever the request.
async fn repeats(mut call: Call, message: Vec<u8>) {
    call.read().await;
    let mut answer = call.begin();
    while answer.send(message.clone()).await {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
