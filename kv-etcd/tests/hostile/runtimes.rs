//! One handle in several runtimes: nothing depends on another runtime being alive or driven
//! ([clause S1](kv_core::contract::CLAUSES#S1)).

use std::time::Duration;

use kv_core::{EphemeralKey, Error, EventType, Kv, Lock, Watch};
use tokio::runtime::{Builder, Runtime};
use tokio::task::yield_now;

use crate::minimal::Minimal;
use crate::server::Server;
use crate::{connect, soon, until};

const TTL: Duration = Duration::from_secs(10);

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// A server on a runtime that is always driven.
fn serve() -> (Runtime, Server, Minimal) {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let (server, store) = runtime.block_on(Minimal::start());
    (runtime, server, store)
}

/// The handle, and what it took in the first runtime.
struct Begun {
    kv: Kv,
    lock: Lock,
    key: EphemeralKey,
}

/// Uses the handle in every way, and leaves calls in flight.
async fn begin(server: &Server) -> (Begun, Watch) {
    let kv = connect(server, "5s").await;
    let watch = soon("watch", kv.watch("", 0)).await.expect("a watch");
    let lock = soon("lock", kv.lock("first/lock", TTL)).await.expect("the lock");
    let key = soon("ephemeral_key", kv.ephemeral_key("first/key", TTL)).await.expect("a key");
    lock.renew().await.expect("still ours");
    for number in 0..20 {
        let (kv, key) = (kv.clone(), format!("first/{number}"));
        tokio::spawn(async move {
            loop {
                let _ = kv.set(&key, "").await;
                let _ = kv.get("first/value").await;
            }
        });
    }
    // Some of the calls are in flight when the runtime stops.
    for _ in 0..50 {
        yield_now().await;
    }
    (Begun { kv, lock, key }, watch)
}

/// Uses the handle in every way, on the current runtime.
async fn everything_works(begun: &Begun, store: &Minimal, name: &str) {
    let kv = begun.kv.scoped(&format!("{name}/")).expect("a scope");
    soon("set", kv.set("value", "1")).await.expect("an index");
    assert_eq!(&*soon("get", kv.get("value")).await.expect("a value").data, b"1");
    let writes: Vec<_> = (0..50)
        .map(|number| {
            let kv = kv.clone();
            tokio::spawn(async move { kv.set(&format!("many/{number}"), "").await })
        })
        .collect();
    for write in writes {
        soon("one of many", write).await.expect("no panic").expect("an index");
    }
    assert_eq!(soon("keys", kv.keys("many")).await.expect("keys").len(), 50);

    let mut watch = soon("watch", kv.watch("watched", 0)).await.expect("a watch");
    kv.set("watched", "").await.expect("an index");
    let event = soon("an event", watch.next()).await.expect("an item").expect("an event");
    assert_eq!(event.event_type, EventType::Create);

    let lock = soon("lock", kv.lock("lock", TTL)).await.expect("the lock");
    let waiting = kv.clone();
    let waiter = tokio::spawn(async move { waiting.lock("lock", TTL).await });
    let queue = format!("{name}/lock/");
    until("a second contender", || store.keys(&queue).len() == 2).await;
    soon("renew", lock.renew()).await.expect("still ours");
    soon("unlock", lock.unlock()).await.expect("still ours");
    let lock = soon("the waiter", waiter).await.expect("a task").expect("the lock");
    soon("unlock", lock.unlock()).await.expect("still ours");

    // The lock and the key that were taken in the first runtime can be used here.
    assert!(soon("try_lock", begun.kv.try_lock("first/lock", TTL)).await.expect("an answer").is_none());
    soon("renew", begun.lock.renew()).await.expect("still ours");
    soon("held", begun.kv.txn().held(&begun.lock).set("guarded", name.to_owned()).commit()).await.expect("still ours");
    soon("renew", begun.key.renew()).await.expect("still ours");
    soon("set", begun.key.set(name.to_owned())).await.expect("still ours");
}

#[test]
fn a_runtime_that_is_not_driven_or_has_ended_delays_no_other() {
    let (_serving, server, store) = serve();
    let (first, second) = (runtime(), runtime());
    let (begun, mut watch) = first.block_on(begin(&server));
    // The first runtime is not driven from here on.
    second.block_on(everything_works(&begun, &store, "idle"));
    drop(first);
    second.block_on(everything_works(&begun, &store, "ended"));
    runtime().block_on(everything_works(&begun, &store, "another"));

    // Its watch may have events from before. Then it reports that its runtime has ended.
    let end = second.block_on(async {
        loop {
            match soon("the end of the watch", watch.next()).await {
                Some(Ok(_)) => {}
                other => return other,
            }
        }
    });
    assert!(matches!(end, Some(Err(Error::Unavailable { .. }))), "{end:?}");
    second.block_on(async {
        begun.lock.unlock().await.expect("still ours");
        begun.key.destroy().await.expect("still ours");
    });
}
