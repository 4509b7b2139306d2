//! Calls that share transactions: none suffers from the others. Needs Docker.

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
            assert!(matches!(&result, Err(Error::Conflict { key: told, .. }) if *told == key), "{key}: {result:?}");
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

/// Reads all keys at once, and returns the results in the order of the keys.
async fn read(kv: &kv_core::Kv, keys: &[String]) -> Vec<kv_core::Result<Value>> {
    futures_util::future::join_all(keys.iter().map(|key| kv.get(key))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_read_gets_its_own_answer_whatever_the_others_find() {
    let cluster = start(Options::default()).await;
    let proxy = Proxy::start(&cluster.endpoints()[0]).await;
    let kv = connect(&format!("consul://{}", proxy.endpoint)).await;
    // Every third is absent, some are large, some cannot stand in a path, and each is asked for twice.
    let mut keys: Vec<String> =
        (0..100).map(|number| format!("k/{number}{}", ["", "", "\t?", ""][number % 4])).collect();
    let data =
        |number: usize| if number.is_multiple_of(11) { vec![7; 100_000] } else { number.to_string().into_bytes() };
    let mut indices = Vec::new();
    for (number, key) in keys.iter().enumerate() {
        indices.push(if number % 3 == 0 { 0 } else { kv.set(key, data(number)).await.expect("a write") });
    }
    keys.extend_from_within(..);
    for round in 0..3 {
        let before = proxy.requests();
        for (at, result) in read(&kv, &keys).await.into_iter().enumerate() {
            let number = at % 100;
            match result {
                Err(Error::NotFound { key }) => assert!(indices[number] == 0 && key == keys[at], "{key}"),
                Ok(value) => assert_eq!(value, Value::new(data(number), indices[number]), "{}", keys[at]),
                Err(error) => panic!("{}: {error}", keys[at]),
            }
        }
        let requests = proxy.requests() - before;
        println!("round {round}: {requests} requests for {} reads", keys.len());
        assert!(requests < keys.len() / 2, "{requests} requests");
    }
    // What was absent appears, and what was there is gone.
    for (number, key) in keys[..100].iter().enumerate() {
        if number % 3 == 0 {
            indices[number] = kv.set(key, data(number)).await.expect("a write");
        } else {
            kv.delete(key).await.expect("a deletion");
            indices[number] = 0;
        }
    }
    for (at, result) in read(&kv, &keys).await.into_iter().enumerate() {
        assert_eq!(result.map_or(0, |value| value.index), indices[at % 100], "{}", keys[at]);
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_is_forbidden_leaves_the_others() {
    let cluster = start(Options::default().access_control()).await;
    let credential = cluster.grant("app/", Access::Write).await.expect("a token");
    let kv = connect(&cluster.address_as(&credential)).await;
    let keys: Vec<String> =
        (0..WRITES).map(|number| format!("{}/{number}", if number % 10 == 0 { "other" } else { "app" })).collect();
    for key in keys.iter().filter(|key| key.starts_with("app")).step_by(2) {
        kv.set(key, key.clone()).await.expect("a write");
    }
    for _ in 0..2 {
        let (mut found, mut absent) = (0, 0);
        for (key, result) in keys.iter().zip(read(&kv, &keys).await) {
            match result {
                Err(Error::PermissionDenied { .. }) => assert!(key.starts_with("other"), "{key}"),
                Err(Error::NotFound { .. }) if key.starts_with("app") => absent += 1,
                Ok(value) if value.data == *key => found += 1,
                result => panic!("{key}: {result:?}"),
            }
        }
        assert_eq!((found, absent), (WRITES * 9 / 20, WRITES * 9 / 20));
    }
    cluster.stop().await;
}
