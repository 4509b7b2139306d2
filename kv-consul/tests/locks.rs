//! Locks together with `consul lock`, and what leases leave behind. Needs Docker.

mod support;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kv_conformance_servers::{Cluster, Options};
use kv_core::{Error, EventType};
use support::{Proxy, ask, connect, sessions, soon, start, until};

/// Far longer than any test.
const LONG: Duration = Duration::from_secs(300);

async fn no_session_is_left(cluster: &Cluster) {
    let endpoint = cluster.endpoints().swap_remove(0);
    until("every session is destroyed", async || sessions(&endpoint).await == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn consul_lock_excludes_this_lock() {
    let cluster = start(Options::default()).await;
    let kv = connect(&cluster.address()).await;
    let command = ["consul", "lock", "app/job", "echo locked; exec sleep 300"];
    let mut native = cluster.spawn(0, &command).await.expect("consul lock");
    assert_eq!(soon("consul lock has it", native.line()).await.expect("output").as_deref(), Some("locked"));
    assert!(kv.try_lock("app/job", LONG).await.expect("an answer").is_none());
    let waiting = tokio::spawn({
        let kv = kv.clone();
        async move { kv.lock("app/job", LONG).await }
    });
    let endpoint = &cluster.endpoints()[0];
    until("the waiter has a session", async || sessions(endpoint).await == 2).await;
    assert!(!waiting.is_finished());
    native.signal("INT").await.expect("a signal");
    let lock = soon("the lock", waiting).await.expect("no panic").expect("the lock");
    kv.txn().held(&lock).set("app/state", "ours").commit().await.expect("a guarded write");
    lock.unlock().await.expect("unlocked");
    no_session_is_left(&cluster).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn this_lock_excludes_consul_lock() {
    let cluster = start(Options::default()).await;
    let kv = connect(&cluster.address()).await;
    let lock = kv.lock("app/job", LONG).await.expect("the lock");
    let before = lock.token();
    let endpoint = &cluster.endpoints()[0];
    // The entry is like that of `consul lock`: its flags, and no value. The token is the index of the acquiring
    // transaction.
    let entry = ask(endpoint, "GET", "/v1/kv/app/job/.lock").await;
    for part in [r#""Flags":3304740253564472344,"Value":null,"Session":"#, &format!(r#""ModifyIndex":{before}}}"#)] {
        assert!(entry.contains(part), "{part} in {entry}");
    }
    let mut native = cluster.spawn(0, &["consul", "lock", "app/job", "echo", "locked"]).await.expect("consul lock");
    until("consul lock has a session", async || sessions(endpoint).await == 2).await;
    let early = tokio::time::timeout(Duration::from_secs(1), native.line()).await;
    assert!(early.is_err(), "consul lock got a lock that is held: {early:?}");
    kv.txn().held(&lock).set("app/state", "ours").commit().await.expect("a guarded write");
    lock.unlock().await.expect("unlocked");
    assert_eq!(soon("consul lock has it", native.line()).await.expect("output").as_deref(), Some("locked"));
    let ended = soon("consul lock ends", native.wait()).await.expect("its end");
    assert_eq!(ended.code, 0, "{ended:?}");
    let again = kv.lock("app/job", LONG).await.expect("the lock once more");
    assert!(again.token() > before);
    drop(again);
    no_session_is_left(&cluster).await;
    assert_eq!(ask(endpoint, "GET", "/v1/kv/?keys").await, r#"["app/state"]"#, "nothing is left of the lock");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_entry_at_the_place_of_a_lock_is_data() {
    let cluster = start(Options::default()).await;
    let kv = connect(&cluster.address()).await;
    let endpoint = &cluster.endpoints()[0];
    let mut watch = kv.watch("data/", 0).await.expect("a watch");
    for flags in [0, 7] {
        let path = format!("/v1/kv/data/.lock?flags={flags}");
        assert_eq!(ask(endpoint, "PUT", &path).await, "true");
        for result in [kv.lock("data", LONG).await.map(drop), kv.try_lock("data", LONG).await.map(drop)] {
            assert!(matches!(result, Err(Error::Conflict { ref key }) if key == "data"), "{result:?}");
        }
        let listed: Vec<_> = kv.get_all("").await.expect("a listing").values.into_keys().collect();
        assert_eq!(listed, ["data/.lock"]);
        assert_eq!(kv.keys("").await.expect("a directory"), ["data/"]);
        assert_eq!(kv.keys("data").await.expect("a directory"), ["data/.lock"]);
        let event = soon("its event", watch.next()).await.expect("the watch goes on").expect("an event");
        assert_eq!(event.key, "data/.lock");
    }
    // With the flags of a lock it is a lock, although it has no holder.
    ask(endpoint, "PUT", "/v1/kv/data/.lock?flags=3304740253564472344").await;
    let event = soon("its event", watch.next()).await.expect("the watch goes on").expect("an event");
    assert_eq!((event.key.as_str(), event.event_type), ("data/.lock", EventType::Delete));
    assert!(kv.get_all("").await.expect("a listing").values.is_empty());
    kv.lock("data", LONG).await.expect("the lock").unlock().await.expect("unlocked");
    let command = ["consul", "lock", "-n", "2", "semaphore", "echo locked; exec sleep 300"];
    let mut native = cluster.spawn(0, &command).await.expect("consul lock");
    assert_eq!(soon("the semaphore", native.line()).await.expect("output").as_deref(), Some("locked"));
    let result = kv.try_lock("semaphore", LONG).await;
    assert!(matches!(result, Err(Error::Conflict { .. })), "{result:?}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_name_can_be_locked() {
    let cluster = start(Options::default()).await;
    let kv = connect(&cluster.address()).await;
    let limit = kv.limits().key_bytes;
    for name in ["k".repeat(limit), "é".repeat(limit / 2), "\u{1}".repeat(limit), "a/".repeat(limit / 2 - 1) + "a"] {
        let lock = kv.lock(&name, LONG).await.expect("the lock");
        assert!(kv.try_lock(&name, LONG).await.expect("an answer").is_none());
        kv.txn().held(&lock).set(&name, "1").commit().await.expect("a guarded write");
        lock.unlock().await.expect("unlocked");
        assert_eq!(&kv.get(&name).await.expect("the value").data[..], b"1");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_session_leaks() {
    let cluster = start(Options::default()).await;
    let kv = connect(&cluster.address()).await;
    let endpoint = &cluster.endpoints()[0];
    for round in 0..20 {
        let lock = kv.lock("leak/lock", LONG).await.expect("the lock");
        let waiting = kv.lock("leak/lock", LONG);
        assert!(tokio::time::timeout(Duration::from_millis(round * 2), waiting).await.is_err());
        assert!(kv.try_lock("leak/lock", LONG).await.expect("an answer").is_none());
        let member = kv.ephemeral_key("leak/member", LONG).await.expect("a key");
        assert!(kv.ephemeral_key("leak/member", LONG).await.is_err_and(|error| error.is_conflict()));
        // The attempt is abandoned at different points.
        let _ = tokio::time::timeout(Duration::from_micros(round * 200), kv.ephemeral_key("leak/other", LONG)).await;
        if round % 2 == 0 {
            lock.unlock().await.expect("unlocked");
            member.destroy().await.expect("destroyed");
        } else {
            drop((lock, member));
        }
        until("nothing is left", async || {
            sessions(endpoint).await == 0 && kv.get_all("leak/").await.expect("a listing").values.is_empty()
        })
        .await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_waiters_share_their_connections() {
    const WAITERS: usize = 500;
    let cluster = start(Options::default()).await;
    let proxy = Proxy::start(&cluster.endpoints()[0]).await;
    let kv = connect(&format!("consul://{}", proxy.endpoint)).await;
    let held = kv.lock("busy/lock", LONG).await.expect("the lock");
    // The tokens in the order in which the waiters held the lock. Their tasks may end in another order.
    let tokens = Arc::new(Mutex::new(Vec::new()));
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..WAITERS {
        let (kv, tokens) = (kv.clone(), tokens.clone());
        waiting.spawn(async move {
            let lock = kv.lock("busy/lock", LONG).await.expect("the lock");
            let token = lock.token();
            kv.txn().held(&lock).set("busy/holder", token.to_string()).commit().await.expect("a guarded write");
            tokens.lock().expect("no panic").push(token);
            lock.unlock().await.expect("unlocked");
        });
    }
    until("the first of them waits", async || sessions(&cluster.endpoints()[0]).await == 2).await;
    let before = proxy.requests();
    let (began, mut last) = (Instant::now(), held.token());
    held.unlock().await.expect("unlocked");
    while let Some(ended) = soon("the next holder", waiting.join_next()).await {
        ended.expect("no panic");
    }
    let tokens = std::mem::take(&mut *tokens.lock().expect("no panic"));
    let (time, requests) = (began.elapsed(), proxy.requests() - before);
    println!("{WAITERS} hand-overs in {time:?}, {requests} requests, {} connections", proxy.most_connections());
    for token in &tokens {
        assert!(*token > last, "{token} after {last}");
        last = *token;
    }
    assert_eq!(tokens.len(), WAITERS);
    assert!(proxy.most_connections() < 50, "{} connections", proxy.most_connections());
    no_session_is_left(&cluster).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_survives_a_crash() {
    let cluster = start(Options::default()).await;
    let kv = connect(&cluster.address()).await;
    let held = kv.lock("crash", LONG).await.expect("the lock");
    let waiting = tokio::spawn({
        let kv = kv.clone();
        async move { kv.lock("crash", LONG).await }
    });
    until("the waiter has a session", async || sessions(&cluster.endpoints()[0]).await == 2).await;
    cluster.kill(0).await.expect("kill");
    cluster.start_again(0).await.expect("start again");
    cluster.await_all().await.expect("the server serves again");
    assert!(!waiting.is_finished());
    let token = held.token();
    until("unlocked", async || held.renew().await.is_ok()).await;
    held.unlock().await.expect("unlocked");
    let lock = soon("the lock", waiting).await.expect("no panic").expect("the lock");
    assert!(lock.token() > token);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lock_delay_delays_the_next_holder() {
    let cluster = start(Options::default()).await;
    let kv = connect(&format!("{}?lock-delay=2s", cluster.address())).await;
    let endpoint = &cluster.endpoints()[0];
    let lock = kv.lock("delayed", LONG).await.expect("the lock");
    let list = ask(endpoint, "GET", "/v1/session/list").await;
    let id = list.split("\"ID\":").nth(1).and_then(|rest| rest.split('"').nth(1)).expect("a session").to_owned();
    let began = Instant::now();
    ask(endpoint, "PUT", &format!("/v1/session/destroy/{id}")).await;
    assert!(lock.renew().await.is_err_and(|error| error.is_lost()));
    assert!(kv.try_lock("delayed", LONG).await.expect("an answer").is_none());
    let next = soon("the lock", kv.lock("delayed", LONG)).await.expect("the lock");
    assert!(began.elapsed() >= Duration::from_secs(2), "after {:?}", began.elapsed());
    assert!(next.token() > lock.token());
    assert!(lock.unlock().await.is_err_and(|error| error.is_lost()));
    next.renew().await.expect("the former holder has changed nothing");
    cluster.stop().await;
}

/// No contender follows the last one of a round, so no other change can wake it.
#[tokio::test(flavor = "multi_thread")]
async fn all_contenders_of_many_clients_get_the_lock() {
    const ROUNDS: usize = 60;
    let cluster = start(Options::default()).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(connect(&cluster.address()).await);
    }
    // While the lock's key is absent, every write to the store wakes its watches.
    let busy = connect(&cluster.address()).await;
    let writing = tokio::spawn(async move {
        loop {
            busy.set("busy", "").await.expect("a write");
        }
    });
    let mut last = 0;
    for _ in 0..ROUNDS {
        let mut contending = tokio::task::JoinSet::new();
        for kv in &clients {
            let kv = kv.clone();
            contending.spawn(async move {
                let lock = kv.lock("contended", LONG).await.expect("the lock");
                let token = lock.token();
                lock.unlock().await.expect("unlocked");
                token
            });
        }
        let mut tokens = Vec::new();
        while let Some(token) = soon("the next holder", contending.join_next()).await {
            tokens.push(token.expect("no panic"));
        }
        tokens.sort_unstable();
        tokens.dedup();
        assert_eq!(tokens.len(), clients.len());
        assert!(tokens[0] > last, "{tokens:?} after {last}");
        last = tokens[tokens.len() - 1];
    }
    writing.abort();
    no_session_is_left(&cluster).await;
    cluster.stop().await;
}
