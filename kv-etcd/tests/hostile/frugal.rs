//! Servers that say no more than they must: everything works with what etcd's API promises, and nothing else.

use std::time::Duration;

use kv_core::{Error, EventType, Kv, Value};

use crate::minimal::Minimal;
use crate::server::Server;
use crate::{connect, soon};

const TTL: Duration = Duration::from_secs(10);

/// A server that says the least, and a client of it. The timeout is long: nothing here is to run into it.
async fn start() -> (Server, Kv) {
    let server = Server::start().await;
    server.turn(Minimal::new().mood());
    let kv = connect(&server, "30s").await;
    (server, kv)
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

    // A plain write detaches a key from its lease, and a key that was made anew is another's.
    let key = soon("ephemeral_key", kv.ephemeral_key("node", TTL)).await.expect("a key");
    kv.set("node", "theirs").await.expect("an index");
    assert!(soon("renew", key.renew()).await.expect_err("it is stolen").is_lost());
    assert!(soon("destroy", key.destroy()).await.expect_err("it is stolen").is_lost());
    assert_eq!(&*kv.get("node").await.expect("theirs").data, b"theirs");
}

#[tokio::test]
async fn locks() {
    let (_server, kv) = start().await;
    let lock = soon("lock", kv.lock("job", TTL)).await.expect("the lock");
    assert!(soon("try_lock", kv.try_lock("job", TTL)).await.expect("an answer").is_none());
    soon("renew", lock.renew()).await.expect("still ours");
    soon("held", kv.txn().held(&lock).set("result", "1").commit()).await.expect("still ours");
    let waiting = kv.clone();
    let waiter = tokio::spawn(async move { waiting.lock("job", TTL).await });
    soon("a second contender", async { while kv.keys("job").await.expect("keys").len() < 2 {} }).await;
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
