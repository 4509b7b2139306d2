//! Writes that share transactions: none suffers from the others. Needs Docker.

mod support;

use std::collections::BTreeSet;

use kv_conformance_servers::{Access, Options};
use kv_core::{Error, Value};
use support::{Proxy, connect, start};
use tokio::task::JoinSet;

const WRITES: usize = 300;

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_conflicts_leaves_the_others() {
    let cluster = start(Options::default()).await;
    let proxy = Proxy::start(&cluster.endpoints()[0]).await;
    let kv = connect(&format!("consul://{}", proxy.endpoint)).await;
    let before = proxy.requests();
    let mut writing = JoinSet::new();
    for number in 0..WRITES {
        let kv = kv.clone();
        // Every fifth write expects an index that no key has. Every seventh is so large that few fit into a
        // transaction.
        writing.spawn(async move {
            let key = format!("k/{number}");
            let data = if number % 7 == 0 { vec![0; kv.limits().value_bytes / 4] } else { vec![1; 100] };
            let result = match number % 5 {
                0 => kv.update(&key, Value::new(data.clone(), 1_000_000)).await,
                1 => kv.update(&key, Value::new(data.clone(), 0)).await,
                _ => kv.set(&key, data.clone()).await,
            };
            (number, key, data, result)
        });
    }
    while let Some(written) = writing.join_next().await {
        let (number, key, data, result) = written.expect("no panic");
        if number % 5 == 0 {
            assert!(matches!(&result, Err(Error::Conflict { key: told }) if *told == key), "{key}: {result:?}");
            assert!(kv.get(&key).await.is_err_and(|error| error.is_key_not_found()), "{key} was written");
        } else {
            let index = result.unwrap_or_else(|error| panic!("{key}: {error}"));
            assert_eq!(kv.get(&key).await.expect("a value"), Value::new(data, index));
        }
    }
    let reads = WRITES;
    println!("{} requests for {WRITES} writes", proxy.requests() - before - reads);
    assert!(proxy.requests() - before - reads < WRITES / 2, "{} requests", proxy.requests() - before - reads);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_of_one_key_have_an_index_each() {
    let cluster = start(Options::default()).await;
    let kv = connect(&cluster.address()).await;
    let mut writing = JoinSet::new();
    for number in 0..WRITES {
        let kv = kv.clone();
        writing.spawn(async move { kv.set(&format!("k/{}", number % 3), "same").await.expect("a write") });
    }
    let mut indices = BTreeSet::new();
    while let Some(index) = writing.join_next().await {
        indices.insert(index.expect("no panic"));
    }
    // At most three writes, of different keys, share an index.
    assert!(indices.len() >= WRITES / 3, "{} indices for {WRITES} writes", indices.len());
    for number in 0..3 {
        assert!(indices.contains(&kv.get(&format!("k/{number}")).await.expect("a value").index));
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_forbidden_leaves_the_others() {
    let cluster = start(Options::default().access_control()).await;
    let credential = cluster.grant("app/", Access::Write).await.expect("a token");
    let kv = connect(&cluster.address_as(&credential)).await;
    let mut writing = JoinSet::new();
    for number in 0..WRITES {
        let kv = kv.clone();
        writing.spawn(async move {
            let forbidden = number % 10 == 0;
            let key = format!("{}/{number}", if forbidden { "other" } else { "app" });
            (forbidden, kv.set(&key, "1").await)
        });
    }
    while let Some(written) = writing.join_next().await {
        match written.expect("no panic") {
            (true, Err(Error::PermissionDenied { .. })) | (false, Ok(_)) => {}
            (forbidden, result) => panic!("forbidden: {forbidden}, and the result is {result:?}"),
        }
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_gives_up_leaves_the_others() {
    let cluster = start(Options::default()).await;
    let kv = connect(&cluster.address()).await;
    for round in 0..20_u64 {
        let mut writing = JoinSet::new();
        for number in 0..50_u64 {
            let writer = kv.clone();
            writing.spawn(async move { (number, writer.set(&format!("{round}/{number}"), "1").await) });
            // The calls are dropped in different states: in the queue, in flight, or done.
            let dropped = kv.set("dropped", "1");
            let _ = tokio::time::timeout(std::time::Duration::from_micros(number * 20), dropped).await;
        }
        while let Some(written) = writing.join_next().await {
            let (number, result) = written.expect("no panic");
            result.unwrap_or_else(|error| panic!("{number}: {error}"));
        }
    }
    // The queue is not blocked, so the next write is sent.
    kv.set("last", "1").await.expect("a write");
    cluster.stop().await;
}
