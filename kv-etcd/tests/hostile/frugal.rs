//! A server with minimal answers: everything works with the fields that etcd's API promises, and no others.

use std::time::Duration;

use kv_core::{Error, EventType, Kv, Value};

use crate::minimal::Minimal;
use crate::server::Server;
use crate::{connect, soon, until};

const TTL: Duration = Duration::from_secs(10);

/// A server with minimal answers, and a client of it. No call should reach the long timeout.
async fn start() -> (Server, Kv) {
    let (server, _, kv) = start_with_store().await;
    (server, kv)
}

async fn start_with_store() -> (Server, Minimal, Kv) {
    let (server, store) = Minimal::start().await;
    let kv = connect(&server, "30s").await;
    (server, store, kv)
}

/// The children of the root, and all keys, as the client shows them.
async fn shown(kv: &Kv) -> (Vec<String>, Vec<String>) {
    let listing = soon("get_all", kv.get_all("")).await.expect("a listing");
    (soon("keys", kv.keys("")).await.expect("keys"), listing.values.into_keys().collect())
}

#[tokio::test]
async fn values() {
    let (_server, kv) = start().await;
    let first = soon("set", kv.set("a/b", "1")).await.expect("an index");
    let value = soon("get", kv.get("a/b")).await.expect("a value");
    assert_eq!((value.index, &*value.data), (first, &b"1"[..]));
    let second = soon("update", kv.update("a/b", Value::new("2", first))).await.expect("an index");
    assert!(soon("update", kv.update("a/b", Value::new("3", first))).await.expect_err("it is old").is_conflict());
    soon("set", kv.set("a/c/d", "")).await.expect("an index");
    assert_eq!(soon("keys", kv.keys("a")).await.expect("keys"), ["a/b", "a/c/"]);
    assert_eq!(soon("get_all", kv.get_all("a/")).await.expect("a listing").values.len(), 2);
    let txn = kv.txn().check("a/b", second).check("a/x", 7).set("a/y", "");
    let error = soon("txn", txn.commit()).await.expect_err("the second check fails");
    assert!(matches!(&error, Error::Conflict { key } if key == "a/x"), "{error:?}");
    soon("remove", kv.remove("a/b", second)).await.expect("removed");
    soon("delete_tree", kv.delete_tree("a")).await.expect("removed");
    assert!(soon("get", kv.get("a/c/d")).await.expect_err("it is gone").is_key_not_found());
}

#[tokio::test]
async fn events() {
    let (_server, kv) = start().await;
    let mut watch = soon("watch", kv.watch("a", 0)).await.expect("a watch");
    kv.set("a", "1").await.expect("an index");
    kv.set("a", "2").await.expect("an index");
    kv.delete("a").await.expect("deleted");
    for (kind, data) in [(EventType::Create, "1"), (EventType::Update, "2"), (EventType::Delete, "")] {
        let event = soon("an event", watch.next()).await.expect("an item").expect("an event");
        assert_eq!((event.event_type, &*event.data), (kind, data.as_bytes()));
    }
}

#[tokio::test]
async fn ephemeral_keys() {
    let (_server, kv) = start().await;
    let key = soon("ephemeral_key", kv.ephemeral_key("node", TTL)).await.expect("a key");
    soon("renew", key.renew()).await.expect("still ours");
    soon("set", key.set("here")).await.expect("still ours");
    assert!(soon("another", kv.ephemeral_key("node", TTL)).await.expect_err("it exists").is_conflict());
    soon("destroy", key.destroy()).await.expect("still ours");

    // A plain write detaches the key from its lease.
    let key = soon("ephemeral_key", kv.ephemeral_key("node", TTL)).await.expect("a key");
    kv.set("node", "theirs").await.expect("an index");
    assert!(soon("renew", key.renew()).await.expect_err("it is stolen").is_lost());
    assert!(soon("destroy", key.destroy()).await.expect_err("it is stolen").is_lost());
    assert_eq!(&*kv.get("node").await.expect("theirs").data, b"theirs");
}

#[tokio::test]
async fn locks() {
    let (_server, store, kv) = start_with_store().await;
    let lock = soon("lock", kv.lock("job", TTL)).await.expect("the lock");
    assert!(soon("try_lock", kv.try_lock("job", TTL)).await.expect("an answer").is_none());
    soon("renew", lock.renew()).await.expect("still ours");
    soon("held", kv.txn().held(&lock).set("result", "1").commit()).await.expect("still ours");
    let waiting = kv.clone();
    let waiter = tokio::spawn(async move { waiting.lock("job", TTL).await });
    until("a second contender", || store.keys("job/").len() == 2).await;
    assert!(!waiter.is_finished());
    let token = lock.token();
    soon("unlock", lock.unlock()).await.expect("still ours");
    let lock = soon("the waiter", waiter).await.expect("a task").expect("the lock");
    assert!(lock.token() > token);
    kv.delete_tree("job").await.expect("a theft");
    assert!(soon("renew", lock.renew()).await.expect_err("it is stolen").is_lost());
    let held = soon("held", kv.txn().held(&lock).set("result", "2").commit()).await;
    assert!(held.expect_err("it is stolen").is_lost());
}

#[tokio::test]
async fn locks_are_no_keys() {
    let (_server, store, kv) = start_with_store().await;
    let lock = soon("lock", kv.lock("job", TTL)).await.expect("the lock");
    assert_eq!(store.keys("job/").len(), 1);
    assert_eq!(shown(&kv).await, (vec![], vec![]));
    // A watch that is opened while the lock is held gets the deletion of a key that it has not seen.
    let mut watch = soon("watch", kv.watch("", 0)).await.expect("a watch");
    soon("unlock", lock.unlock()).await.expect("still ours");
    // Data whose name looks like that of a lock's entry is written, listed and deleted.
    kv.set("job/1f", "data").await.expect("an index");
    assert_eq!(shown(&kv).await, (vec!["job/".to_owned()], vec!["job/1f".to_owned()]));
    let mut late = soon("watch", kv.watch("", 0)).await.expect("a watch");
    let lock = soon("lock", kv.lock("job", TTL)).await.expect("data does not block it");
    assert!(soon("try_lock", kv.try_lock("job", TTL)).await.expect("an answer").is_none());
    assert_eq!(shown(&kv).await, (vec!["job/".to_owned()], vec!["job/1f".to_owned()]));
    soon("unlock", lock.unlock()).await.expect("still ours");
    let lock = soon("try_lock", kv.try_lock("job", TTL)).await.expect("an answer").expect("nobody has it");
    kv.delete("job/1f").await.expect("deleted");
    for (what, watch, kinds) in [
        ("early", &mut watch, &[EventType::Create, EventType::Delete][..]),
        ("late", &mut late, &[EventType::Delete][..]),
    ] {
        for kind in kinds {
            let event = soon("an event", watch.next()).await.expect("an item").expect("an event");
            assert_eq!((event.key.as_str(), event.event_type), ("job/1f", *kind), "{what}");
        }
    }
    assert_eq!(shown(&kv).await, (vec![], vec![]));
    soon("unlock", lock.unlock()).await.expect("still ours");
}

#[tokio::test]
async fn a_plain_write_takes_a_contender_out_of_the_queue() {
    let (_server, store, kv) = start_with_store().await;
    let lock = soon("lock", kv.lock("job", TTL)).await.expect("the lock");
    let guarded = || kv.txn().held(&lock).set("result", "1");
    soon("held", guarded().commit()).await.expect("still ours");
    let (owner, token) = (store.keys("job/").remove(0), lock.token());
    kv.set(&owner, "theirs").await.expect("a foreign write");
    assert_eq!(shown(&kv).await.1, [owner.as_str(), "result"], "detached from its lease it is data");
    let held = soon("held", guarded().commit()).await;
    assert!(held.expect_err("it is stolen").is_lost());
    assert!(soon("renew", lock.renew()).await.expect_err("it is stolen").is_lost());
    let next = soon("lock", kv.lock("job", TTL)).await.expect("nobody has it");
    assert!(next.token() > token);
    assert_eq!(&*kv.get(&owner).await.expect("data").data, b"theirs");
}
