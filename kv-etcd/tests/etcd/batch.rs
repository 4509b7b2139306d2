//! Operations that travel together: each has the outcome that it would have had alone.

use kv_conformance_servers::{Access, Options};
use kv_core::{Error, Kv, Result, Value};
use tokio::task::JoinSet;

use crate::support::{connect, server, servers, soon, until};

const CALLERS: usize = 300;

/// Makes calls at the same time, and returns their results in the order of the callers.
async fn at_once<T, F>(kv: &Kv, call: impl Fn(Kv, usize) -> F) -> Vec<Result<T>>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
{
    let mut calls = JoinSet::new();
    for caller in 0..CALLERS {
        let result = call(kv.clone(), caller);
        calls.spawn(async move { (caller, result.await) });
    }
    let mut results = soon("every answer", calls.join_all()).await;
    results.sort_by_key(|(caller, _)| *caller);
    results.into_iter().map(|(_, result)| result).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_caller_gets_its_own_answer() {
    let cluster = server().await;
    let kv = connect(&cluster.address()).await;
    let written =
        at_once(&kv, |kv, caller| async move { kv.set(&format!("k/{caller}"), caller.to_string()).await }).await;
    let read = at_once(&kv, |kv, caller| async move { kv.get(&format!("k/{caller}")).await }).await;
    for (caller, (written, read)) in written.into_iter().zip(read).enumerate() {
        assert_eq!(read.expect("a value"), Value::new(caller.to_string(), written.expect("an index")));
    }
    let read = at_once(&kv, |kv, caller| async move { kv.get(&format!("k/{}", caller * 2)).await }).await;
    assert!(read[..CALLERS / 2].iter().all(Result::is_ok));
    assert!(read[CALLERS / 2..].iter().all(|result| result.as_ref().is_err_and(Error::is_key_not_found)));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_hold_or_fail_one_by_one() {
    let cluster = server().await;
    let kv = connect(&cluster.address()).await;
    let created = at_once(&kv, |kv, caller| async move { kv.update(&format!("k/{caller}"), Value::new("1", 0)).await });
    let created: Vec<u64> = created.await.into_iter().map(|result| result.expect("it is new")).collect();
    // Every third caller uses a wrong index, and every third removes the key.
    let results = at_once(&kv, |kv, caller| {
        let index = created[caller];
        async move {
            let key = format!("k/{caller}");
            match caller % 3 {
                0 => kv.update(&key, Value::new("2", index)).await.map(Some),
                1 => kv.update(&key, Value::new("2", index + 100_000)).await.map(Some),
                _ => kv.remove(&key, index).await.map(|()| None),
            }
        }
    });
    for (caller, result) in results.await.into_iter().enumerate() {
        let key = format!("k/{caller}");
        let found = kv.get(&key).await;
        match caller % 3 {
            0 => assert_eq!(found.expect("a value"), Value::new("2", result.expect("it matched").expect("an index"))),
            1 => {
                assert!(matches!(result, Err(Error::Conflict { key: told }) if told == key));
                assert_eq!(found.expect("a value"), Value::new("1", created[caller]));
            }
            _ => assert!(result.is_ok() && found.is_err_and(|error| error.is_key_not_found())),
        }
    }
    // One of the updates of one key from one index wins.
    let index = kv.set("one", "").await.expect("a write");
    let results =
        at_once(&kv, |kv, caller| async move { kv.update("one", Value::new(caller.to_string(), index)).await });
    let won: Vec<u64> = results.await.into_iter().filter_map(Result::ok).collect();
    assert_eq!(won, [kv.get("one").await.expect("a value").index]);
    // Each write of one key has an index of its own.
    let results = at_once(&kv, |kv, _| async move { kv.set("one", "the same").await });
    let mut indices: Vec<u64> = results.await.into_iter().map(|result| result.expect("an index")).collect();
    indices.sort_unstable();
    indices.dedup();
    assert_eq!(indices.len(), CALLERS);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_operation_does_not_fail_the_others_in_its_batch() {
    let cluster = servers(1, Options::default().access_control()).await;
    let user = cluster.grant("mine/", Access::Write).await.expect("a user");
    let kv = connect(&cluster.address_as(&user)).await;
    let key = |caller: usize| format!("{}/{caller}", if caller % 10 == 3 { "theirs" } else { "mine" });
    let written = at_once(&kv, |kv, caller| async move { kv.set(&key(caller), "").await.map(drop) }).await;
    let read = at_once(&kv, |kv, caller| async move { kv.get(&key(caller)).await.map(drop) }).await;
    for (place, result) in written.into_iter().chain(read).enumerate() {
        let denied = matches!(result, Err(Error::PermissionDenied { .. }));
        assert_eq!(denied, place % 10 == 3, "{place}: {result:?}");
        assert!(denied || result.is_ok(), "{place}: {result:?}");
    }
    cluster.stop().await;
}

#[test]
fn a_handle_outlives_the_runtime_that_it_was_used_on() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let main = runtime();
    let cluster = main.block_on(server());
    let first = runtime();
    let kv = first.block_on(connect(&cluster.address()));
    let watch = first.block_on(kv.watch("", 0)).expect("a watch");
    for round in 0..20 {
        // The runtime ends while requests are in flight and others wait for them.
        let other = runtime();
        for caller in 0..CALLERS {
            let kv = kv.clone();
            other.spawn(async move { kv.set(&format!("{round}/{caller}"), "").await });
        }
        other.block_on(kv.get("key")).expect_err("nobody wrote it");
        other.shutdown_background();
        let written = main.block_on(async { soon("a write", kv.set("another", "")).await });
        assert!(!matches!(written, Err(Error::UnexpectedAnswer { .. })), "{written:?}");
    }
    drop((watch, first));
    main.block_on(async {
        until("a write", || async { kv.set("key", "value").await.is_ok() }).await;
        let mut watch = kv.watch("", 0).await.expect("a watch");
        kv.set("key", "again").await.expect("a write");
        let event = soon("an event", watch.next()).await.expect("the watch goes on").expect("an event");
        assert_eq!(event.data, "again");
        cluster.stop().await;
    });
}
