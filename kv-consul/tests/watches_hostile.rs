//! Watches and locks on a server that is slow, or that refuses requests for a while.

#[path = "hostile/server.rs"]
#[allow(dead_code, reason = "these tests use a part of it")]
mod server;

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kv_core::EventType;
use server::{Request, Server, TTL, answer, connect, good, read_request, soon};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::sleep;

/// Answers one request of a connection after another.
async fn converse(mut stream: TcpStream, mut request: Request, answering: impl AsyncFn(&Request) -> String) {
    loop {
        let text = answering(&request).await;
        if stream.write_all(text.as_bytes()).await.is_err() {
            return;
        }
        let Some(head) = read_request(&mut stream).await else { return };
        request.head = head;
    }
}

fn listing(index: u64, keys: impl Iterator<Item = (String, u64)>) -> String {
    let mut body = String::new();
    for (key, index) in keys {
        let separator = if body.is_empty() { "[" } else { "," };
        write!(body, r#"{separator}{{"LockIndex":0,"Key":"{key}","Flags":0,"Value":null,"CreateIndex":{index},"ModifyIndex":{index}}}"#)
            .expect("a string");
    }
    body.push(']');
    answer("200 OK", &format!("X-Consul-Index: {index}\r\n"), &body)
}

#[tokio::test]
async fn events_do_not_wait_for_the_indices_of_deletions() {
    const DELETED: usize = 40;
    // Far longer than the events may take, even with a request for each deletion.
    const SLOW: Duration = Duration::from_secs(300);
    let server = Server::start().await;
    let kv = connect(&server, "10m").await;
    let has_deleted = Arc::new(AtomicUsize::new(0));
    let (deleted, before) = (has_deleted.clone(), (0..DELETED).map(|n| (format!("d/{n:02}"), 10)));
    server.turn(move |stream, request| {
        let (deleted, before) = (deleted.clone(), before.clone());
        converse(stream, request, async move |request| match request.line() {
            line if line.contains("keys&separator") => {
                sleep(SLOW).await;
                answer("404 Not Found", "X-Consul-Index: 70\r\n", "")
            }
            line if !line.contains("/v1/kv/") => good(request),
            line if line.contains("index=") && deleted.load(Ordering::SeqCst) == 0 => {
                while deleted.load(Ordering::SeqCst) == 0 {
                    sleep(Duration::from_millis(10)).await;
                }
                listing(70, [("d/new".to_owned(), 60)].into_iter())
            }
            line if line.contains("index=70") => std::future::pending().await,
            _ if deleted.load(Ordering::SeqCst) == 0 => listing(10, before.clone()),
            _ => listing(70, [("d/new".to_owned(), 60)].into_iter()),
        })
    });
    let mut watch = kv.watch("d/", 0).await.expect("a watch");
    has_deleted.store(1, Ordering::SeqCst);
    let event = soon("the creation", watch.next()).await.expect("the watch goes on").expect("an event");
    assert_eq!((event.key.as_str(), event.event_type, event.index), ("d/new", EventType::Create, 60));
    for _ in 0..DELETED {
        let event = soon("a deletion", watch.next()).await.expect("the watch goes on").expect("an event");
        assert_eq!((event.event_type, event.index), (EventType::Delete, 70));
    }
}

#[tokio::test]
async fn leases_wait_for_the_registration_of_the_agent() {
    let server = Server::start().await;
    // A refusal does not end these calls, although the server refuses for longer than the timeout of a call.
    let kv = connect(&server, "500ms").await;
    let refused = Arc::new(AtomicUsize::new(0));
    let refusals = refused.clone();
    let locking = tokio::spawn({
        server.turn(move |stream, request| {
            let refused = refusals.clone();
            converse(stream, request, async move |request| match request.line() {
                line if line.contains("/session/create") && refused.fetch_add(1, Ordering::SeqCst) < 20 => {
                    answer("500 Internal Server Error", "", "rpc error making call: Missing node registration")
                }
                _ => good(request),
            })
        });
        async move { kv.lock("key", TTL).await }
    });
    let _lock = soon("the lock", locking).await.expect("no panic").expect("the lock");
    assert!(refused.load(Ordering::SeqCst) > 20);
}

#[tokio::test]
async fn a_session_that_left_with_its_agent_is_replaced() {
    let server = Server::start().await;
    let kv = connect(&server, "20s").await;
    let tried = Arc::new(AtomicUsize::new(0));
    let attempts = tried.clone();
    server.turn(move |stream, request| {
        let tried = attempts.clone();
        converse(stream, request, async move |request| match request.line() {
            // Every second attempt finds that its session is gone.
            line if line.contains("/v1/txn") && tried.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) => {
                answer("409 Conflict", "", r#"{"Errors":[{"OpIndex":1,"What":"invalid session \"0\""}]}"#)
            }
            _ => good(request),
        })
    });
    // A write is not sent again if its connection has just been closed; a read is.
    let _ = soon("a new connection", kv.get("key")).await;
    let key = soon("the key", kv.ephemeral_key("key", TTL)).await.expect("the key");
    let lock = soon("the lock", kv.try_lock("name", TTL)).await.expect("an answer").expect("the lock");
    drop((key, lock));
    assert!(tried.load(Ordering::SeqCst) >= 4);
}
