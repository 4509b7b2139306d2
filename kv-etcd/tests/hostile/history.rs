//! Servers whose history is not the one that a watch has followed ([clause E8](kv_core::contract::CLAUSES#E8)).

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use kv_core::{Error, Watch};

use crate::message::{framed, header, key_value, number, text};
use crate::server::{Answer, Call, Mood, Server, good};
use crate::{connect, open_watch, soon};

/// One life of the watch stream.
#[derive(Clone, Copy)]
struct Life {
    cluster: i64,
    /// The revision in the confirmation of the watch, and in later answers.
    created: i64,
    later: i64,
    /// The revision of the events.
    events: &'static [i64],
    /// Whether the stream ends after the events.
    ends: bool,
}

const LIFE: Life = Life { cluster: 0, created: 0, later: 0, events: &[], ends: false };

/// Opens a watch from index 1 on. Its stream has these lives, and the last one is repeated. Reads return the revision
/// `present`.
async fn through(lives: &'static [Life], present: &Arc<AtomicI64>) -> (Server, Watch) {
    let server = Server::start().await;
    let kv = connect(&server, "5s").await;
    let (count, present) = (Arc::new(AtomicUsize::new(0)), Arc::clone(present));
    server.turn(Mood::Call(Arc::new(move |call| match call.method() {
        "Watch" => {
            let life = lives[count.fetch_add(1, Ordering::SeqCst).min(lives.len() - 1)];
            Box::pin(live(call, life))
        }
        "Range" => {
            let answer = header(present.load(Ordering::SeqCst));
            Box::pin(async move { call.answer(&answer).await })
        }
        _ => good(call),
    })));
    let watch = open_watch(&kv).await;
    (server, watch)
}

/// Confirms each watch with a number of the server's own, and sends it the events of this life.
async fn live(mut call: Call, life: Life) {
    let mut answer = call.begin();
    let mut watches = 0;
    while call.message().await.is_some() {
        watches += 1;
        let created = [head(life.cluster, life.created), number(2, watches), number(3, 1)].concat();
        answer.send(framed(&created)).await;
        send_events(&mut answer, life, watches).await;
        if life.ends {
            answer.finish(14, "the server stops");
            return;
        }
    }
}

async fn send_events(answer: &mut Answer, life: Life, watch: i64) {
    for revision in life.events {
        let event = text(11, &text(2, &key_value(b"key", *revision, *revision, b"")));
        answer.send(framed(&[head(life.cluster, life.later), number(2, watch), event].concat())).await;
    }
}

fn head(cluster: i64, revision: i64) -> Vec<u8> {
    text(1, &[number(1, cluster), number(3, revision)].concat())
}

/// The indices of the events, up to the error that ends the watch or up to `last`.
async fn ends(watch: &mut Watch, last: u64) -> (Vec<u64>, Option<Error>) {
    let mut indices = Vec::new();
    loop {
        match soon("an item", watch.next()).await.expect("an item before the end") {
            Ok(event) => indices.push(event.index),
            Err(error) => {
                assert!(soon("the end", watch.next()).await.is_none(), "the error is the last item");
                return (indices, Some(error));
            }
        }
        if indices.last() == Some(&last) {
            return (indices, None);
        }
    }
}

fn is_compacted_after(error: Option<&Error>, last: u64) -> bool {
    matches!(error, Some(Error::Compacted { after, .. }) if *after == last)
}

#[tokio::test]
async fn a_server_that_was_emptied_ends_the_watch() {
    const LIVES: &[Life] =
        &[Life { created: 5, later: 6, events: &[5, 6], ends: true, ..LIFE }, Life { created: 2, ..LIFE }];
    let present = Arc::new(AtomicI64::new(2));
    let (_server, mut watch) = through(LIVES, &present).await;
    let (indices, error) = ends(&mut watch, u64::MAX).await;
    assert_eq!(indices, [5, 6]);
    assert!(is_compacted_after(error.as_ref(), 6), "{error:?}");
}

#[tokio::test]
async fn a_member_that_lags_behind_does_not_end_the_watch() {
    const LIVES: &[Life] = &[
        Life { created: 5, later: 6, events: &[5, 6], ends: true, ..LIFE },
        Life { created: 4, later: 7, events: &[6, 7], ..LIFE },
    ];
    let present = Arc::new(AtomicI64::new(6));
    let (_server, mut watch) = through(LIVES, &present).await;
    let (indices, error) = ends(&mut watch, 7).await;
    assert_eq!((indices, error.is_none()), (vec![5, 6, 7], true), "{error:?}");
}

#[tokio::test]
async fn a_revision_that_falls_while_the_stream_is_open_ends_the_watch() {
    const LIVES: &[Life] = &[Life { created: 3, later: 3, events: &[9, 3], ..LIFE }];
    let present = Arc::new(AtomicI64::new(3));
    let (_server, mut watch) = through(LIVES, &present).await;
    let (indices, error) = ends(&mut watch, u64::MAX).await;
    assert_eq!(indices, [9]);
    assert!(is_compacted_after(error.as_ref(), 9), "{error:?}");
}

#[tokio::test]
async fn another_cluster_ends_the_watch_whatever_its_revision() {
    const LIVES: &[Life] = &[
        Life { cluster: 1, created: 5, later: 6, events: &[5, 6], ends: true },
        Life { cluster: 2, created: 900, later: 901, events: &[901], ends: false },
    ];
    let present = Arc::new(AtomicI64::new(900));
    let (_server, mut watch) = through(LIVES, &present).await;
    let (indices, error) = ends(&mut watch, 901).await;
    assert_eq!(indices, [5, 6]);
    assert!(is_compacted_after(error.as_ref(), 6), "{error:?}");
}

#[tokio::test]
async fn a_watch_that_begins_beyond_the_history_is_compacted() {
    const LIVES: &[Life] = &[Life { created: 3, ..LIFE }];
    let present = Arc::new(AtomicI64::new(3));
    let (server, watch) = through(LIVES, &present).await;
    drop(watch);
    let kv = connect(&server, "5s").await;
    let error = soon("watch", kv.watch("", 77)).await.err();
    assert!(is_compacted_after(error.as_ref(), 77), "{error:?}");
}
