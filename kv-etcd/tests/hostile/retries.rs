//! Which calls are repeated, and what an answer proves (clauses [S3](kv_core::contract::CLAUSES#S3),
//! [S5](kv_core::contract::CLAUSES#S5) and [W6](kv_core::contract::CLAUSES#W6)).

use std::collections::HashSet;
use std::future::{Future, pending};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use h2::Reason;
use kv_core::{Error, Kv};
use tokio::time::sleep;

use crate::answers::{page_of_the_web, refuses, resets_after_reading, silence};
use crate::message::{framed, header, number, text};
use crate::minimal::Minimal;
use crate::server::{Call, Mood, Server, good};
use crate::{connect, connect_to, soon};

const TTL: Duration = Duration::from_secs(10);
/// Longer than a test: no call should reach this timeout.
const LONG: &str = "10m";

/// A server, and a client with a long timeout that has connected to it.
async fn patient() -> (Server, Kv) {
    let server = Server::start().await;
    let kv = connect(&server, LONG).await;
    (server, kv)
}

/// Changes what the server does. That ends the connection, so a first read replaces it: a write might be indeterminate.
async fn turn(server: &Server, kv: &Kv, mood: Mood) {
    server.turn(mood);
    let _ = soon("a new connection", kv.clone().with_timeout(Duration::from_millis(500)).get("key")).await;
}

/// Does this to the first calls of each method, and serves all later calls.
fn at_first<F: Future<Output = ()> + Send + 'static>(
    times: usize,
    act: impl Fn(Call) -> F + Send + Sync + 'static,
) -> Mood {
    let counts = Mutex::new(std::collections::HashMap::<String, usize>::new());
    let act = Arc::new(act);
    Mood::to_each_call(move |call| {
        let mut counts = counts.lock().expect("no panic");
        let count = counts.entry(call.method().to_owned()).or_default();
        *count += 1;
        let (first, act) = (*count <= times, Arc::clone(&act));
        async move { if first { act(call).await } else { good(call).await } }
    })
}

#[tokio::test]
async fn calls_that_were_certainly_not_applied_are_repeated() {
    for (status, said) in [
        (2, "raft proposal dropped"),
        (14, "etcdserver: no leader"),
        (8, "etcdserver: too many requests"),
        (14, "etcdserver: rpc not supported for learner"),
        (9, "etcdserver: rpc not supported for learner"),
    ] {
        let (server, kv) = patient().await;
        server.turn(at_first(3, move |call| refuses(call, status, said)));
        // A first read replaces the connection that has just ended. A write on it might be indeterminate.
        let _ = soon(said, kv.get("key")).await.expect_err("an empty store").is_key_not_found();
        soon(said, kv.set("key", "value")).await.expect(said);
        soon(said, kv.txn().set("a", "1").set("b", "2").commit()).await.expect(said);
        soon(said, kv.delete("key")).await.expect(said);
        let _key = soon(said, kv.ephemeral_key("key", TTL)).await.expect(said);
        let _lock = soon(said, kv.try_lock("lock", TTL)).await.expect(said);
        soon(said, kv.ping()).await.expect(said);
    }
}

#[tokio::test]
async fn writes_that_travelled_together_are_repeated() {
    let (server, kv) = patient().await;
    turn(&server, &kv, at_first(3, |call| refuses(call, 2, "raft proposal dropped"))).await;
    let writing = (0..40).map(|number| {
        let kv = &kv;
        async move { kv.set(&format!("key/{number}"), "").await }
    });
    for result in soon("writes", join_all(writing)).await {
        // A good server answers transactions of several writes wrongly, so success is not required.
        assert!(!result.is_err_and(|error| error.is_retryable()));
    }
}

#[tokio::test]
async fn reads_are_repeated_after_any_failure() {
    type Make = fn() -> Mood;
    let moods: [(&str, Make); 4] = [
        ("leader changed", || at_first(2, |call| refuses(call, 14, "etcdserver: leader changed"))),
        ("stopped", || at_first(2, |call| refuses(call, 2, "raft: stopped"))),
        ("a reset", || at_first(2, |call| resets_after_reading(call, Reason::CANCEL))),
        ("a proxy", || at_first(2, |call| page_of_the_web(call, 503, "text/html"))),
    ];
    for (what, mood) in moods {
        let (server, kv) = patient().await;
        server.turn(mood());
        assert!(soon(what, kv.get("key")).await.expect_err("an empty store").is_key_not_found(), "{what}");
        assert!(soon(what, kv.get_all("")).await.expect(what).values.is_empty());
        assert!(soon(what, kv.keys("")).await.expect(what).is_empty());
    }
}

#[tokio::test]
async fn a_write_that_the_server_did_not_process_is_sent_again() {
    let (server, kv) = patient().await;
    turn(&server, &kv, at_first(2, |call| resets_after_reading(call, Reason::REFUSED_STREAM))).await;
    soon("set", kv.set("key", "value")).await.expect("the third time");
}

#[tokio::test]
async fn a_page_of_a_proxy_proves_nothing_and_is_named() {
    for status in [413, 502, 403, 401, 404] {
        let server = Server::start().await;
        let kv = connect(&server, "500ms").await;
        turn(&server, &kv, Mood::to_each_call(move |call| page_of_the_web(call, status, "text/html"))).await;
        let error = soon("set", kv.set("key", "value")).await.expect_err("no etcd");
        assert!(matches!(error, Error::Indeterminate { .. }), "{status}: {error}");
        let said = error.to_string();
        for part in [&server.address.to_string(), &status.to_string(), "text/html"] {
            assert!(said.contains(part), "{said}");
        }
        soon("get", kv.get("key")).await.expect_err("no etcd");
    }
}

#[tokio::test]
async fn a_full_store_is_named_in_the_error() {
    const FULL: &str = "etcdserver: mvcc: database space exceeded";
    let (server, kv) = patient().await;
    let full = Mood::to_each_call(|call| async move {
        match call.method() {
            "Put" | "Txn" | "LeaseGrant" => refuses(call, 8, FULL).await,
            _ => good(call).await,
        }
    });
    turn(&server, &kv, full).await;
    for error in [
        soon("set", kv.set("key", "value")).await.err(),
        soon("txn", kv.txn().set("a", "1").set("b", "2").commit()).await.err(),
    ] {
        let error = error.expect("there is no room");
        assert!(matches!(error, Error::Indeterminate { .. }), "{error}");
        assert!(error.to_string().contains("the store is full"), "{error}");
    }
    let error = soon("ephemeral_key", kv.ephemeral_key("key", TTL)).await.expect_err("there is no room");
    assert!(matches!(error, Error::StorageFull { .. }), "{error}");
    soon("ping", kv.ping()).await.expect("no alarm");

    server.turn(Mood::Call(Arc::new(|call| {
        if !call.is_status() {
            return good(call);
        }
        let status = [header(1), number(4, 1), text(8, b"memberID:1 alarm:NOSPACE ")].concat();
        Box::pin(async move { call.answer(&status).await })
    })));
    let error = soon("ping", kv.ping()).await.expect_err("there is no room");
    assert!(matches!(error, Error::StorageFull { .. }) && error.to_string().contains("NOSPACE"), "{error}");
}

#[tokio::test]
async fn a_lease_whose_renewal_is_denied_does_not_harm_others() {
    let server = Server::start().await;
    let Mood::Call(serve) = Minimal::new().mood() else { unreachable!("it serves calls") };
    let denied = Arc::new(Mutex::new(HashSet::new()));
    let first = Arc::clone(&denied);
    server.turn(Mood::Call(Arc::new(move |call| {
        if call.method() == "LeaseKeepAlive" { Box::pin(renews(call, Arc::clone(&first))) } else { serve(call) }
    })));
    let kv = connect(&server, LONG).await;
    let culprit = soon("a key", kv.ephemeral_key("denied", TTL)).await.expect("a key");
    // The server denies the lease that is renewed first.
    let error = soon("renew", culprit.renew()).await.expect_err("it is denied");
    assert!(matches!(error, Error::PermissionDenied { .. }), "{error}");
    let mut keys = Vec::new();
    for number in 0..10 {
        keys.push(soon("a key", kv.ephemeral_key(&format!("key/{number}"), TTL)).await.expect("a key"));
    }
    for round in 0..5 {
        let renewing = keys.iter().map(kv_core::EphemeralKey::renew);
        let (results, denied) = soon("renew", async { tokio::join!(join_all(renewing), culprit.renew()) }).await;
        assert!(results.iter().all(Result::is_ok), "round {round}: {results:?}");
        assert!(matches!(denied, Err(Error::PermissionDenied { .. })), "round {round}: {denied:?}");
    }
}

/// Renews every lease but the first one that it saw. For that one it ends the stream, as etcd does.
async fn renews(mut call: Call, denied: Arc<Mutex<HashSet<Vec<u8>>>>) {
    let mut answer = None;
    while let Some(request) = call.message().await {
        let answer = answer.get_or_insert_with(|| call.begin());
        let is_denied = {
            let mut denied = denied.lock().expect("no panic");
            if denied.is_empty() {
                denied.insert(request.clone());
            }
            denied.contains(&request)
        };
        if is_denied {
            return answer.finish(7, "etcdserver: permission denied");
        }
        // The lease is field 1 of the request and field 2 of the answer.
        let lease = [&[2 << 3], &request[1..]].concat();
        answer.send(framed(&[lease, number(3, 10)].concat())).await;
    }
}

#[tokio::test]
async fn connecting_continues_when_the_call_that_began_it_has_given_up() {
    let server = Server::start().await;
    let kv = connect(&server, LONG).await.with_timeout(Duration::from_millis(100));
    server.turn(Mood::to("Status", |call| async move {
        sleep(Duration::from_millis(400)).await;
        good(call).await;
    }));
    soon("a get", async { while !kv.get("key").await.is_err_and(|error| error.is_key_not_found()) {} }).await;
}

#[tokio::test]
async fn a_member_that_answers_no_call_is_replaced_by_another() {
    let (cut_off, serving) = (Server::start().await, Server::start().await);
    let connecting = async {
        loop {
            // Connect until the first connection leads to the member that is cut off later.
            let address = format!("etcd://{},{}?timeout={LONG}", cut_off.address, serving.address);
            let (before, kv) = (cut_off.counts.connections(), connect_to(&address).await);
            if cut_off.counts.connections() > before {
                return kv;
            }
        }
    };
    let kv = soon("a connection", connecting).await;
    // Its status still says that there is a leader.
    cut_off.turn(Mood::to_each_call(silence));
    for _ in 0..3 {
        assert!(soon("get", kv.get("key")).await.expect_err("an empty store").is_key_not_found());
        soon("keys", kv.keys("")).await.expect("the other member serves");
    }
    soon("set", kv.set("key", "value")).await.expect("the other member serves");
}

#[tokio::test]
async fn a_write_that_was_reported_as_not_applied_is_not_sent_later() {
    let (server, kv) = patient().await;
    let hasty = kv.clone().with_timeout(Duration::from_millis(300));
    // The server accepts connections and never answers.
    let closed = Mood::to_each_connection(|stream, _counts| async move {
        let _stream = stream;
        pending::<()>().await;
    });
    turn(&server, &kv, closed).await;
    let writing = (0..60).map(|number| {
        let kv = &hasty;
        async move { kv.set(&format!("key/{number}"), "").await }
    });
    for result in soon("writes", join_all(writing)).await {
        let error = result.expect_err("there is no connection");
        assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    }
    let error = soon("set", hasty.set("key", "")).await.expect_err("there is no connection").to_string();
    assert!(error.contains(&server.address.to_string()) && error.contains("300ms"), "{error}");
    turn(&server, &kv, Mood::Good).await;
    soon("set", kv.set("key", "value")).await.expect("a good server");
    assert_eq!(server.counts.writes(), 1, "a write that was given up was sent after all");
}
