//! An etcd whose quota is used up: the reported fate of each write is true, and `ping` reports that the store is full.
//! Needs Docker.

use std::time::Duration;

use futures_util::future::join_all;
use kv_conformance::testing::soon;
use kv_conformance_servers::{Cluster, Kind, Options};
use kv_core::{Error, Kv, Registry};

const QUOTA: usize = 24 << 20;
const ROUNDS: usize = 10;
const TOGETHER: usize = 20;
const BYTES: usize = 1 << 20;

#[tokio::test]
async fn writes_to_a_full_etcd_report_their_fate() {
    let options = Options::default().argument(format!("--quota-backend-bytes={QUOTA}"));
    let cluster = Cluster::start(Kind::Etcd, 1, options).await.expect("a server");
    let kv = Registry::new().with(kv_etcd::REGISTRATION).connect(&cluster.address()).await.expect("a client");
    kv.set("small", "1").await.expect("a write while there is room");
    let ttl = Duration::from_secs(300);
    let held = kv.lock("held", ttl).await.expect("a lock while there is room");
    let member = kv.ephemeral_key("member", ttl).await.expect("a key while there is room");
    let mut watch = kv.watch("small", 0).await.expect("a watch while there is room");

    // Concurrent writes pass the check of the quota together, so etcd accepts more of them than fit.
    let mut refused = 0;
    for round in 0..ROUNDS {
        let writing = (0..TOGETHER).map(|number| {
            let (kv, key) = (&kv, format!("large/{round}-{number}"));
            async move { (kv.set(&key, vec![b'x'; BYTES]).await, key) }
        });
        for (fate, key) in join_all(writing).await {
            refused += usize::from(fate.is_err());
            check_fate(&kv, &key, &fate).await;
        }
        if refused > 0 {
            break;
        }
    }
    assert!(refused > 0, "{} writes of {BYTES} bytes fit into {QUOTA}", ROUNDS * TOGETHER);
    let full = kv.ping().await;
    assert!(matches!(full, Err(Error::StorageFull { .. })), "ping of a full store gave {full:?}");
    let refused = kv.set("small", vec![b'x'; BYTES]).await;
    let typed = matches!(refused, Err(Error::StorageFull { .. } | Error::Indeterminate { .. }));
    assert!(typed, "a write to a full store gave {refused:?}");
    assert_eq!(kv.get("small").await.expect("a read of a full store").data, "1");
    let is_full = |what: &str, error: Option<Error>| {
        let told = matches!(error, Some(Error::StorageFull { .. } | Error::Indeterminate { .. }));
        assert!(told, "{what} of a full store gave {error:?}");
    };
    is_full("a lock", soon("a lock", kv.lock("lock", ttl)).await.err());
    is_full("a try", kv.try_lock("lock", ttl).await.err());
    is_full("an ephemeral key", kv.ephemeral_key("key", ttl).await.err());
    is_full("a member's value", member.set(vec![b'x'; 1000]).await.err());
    // What needs no room goes on.
    held.renew().await.expect("a renewal");
    member.renew().await.expect("a renewal");
    kv.delete("absent").await.expect("a deletion");
    held.unlock().await.expect("unlocked");

    // As the error says: make room, then disarm the alarm. The same handle goes on.
    kv.delete_tree("large").await.expect("a deletion makes room");
    let etcdctl = async |command: &[&str]| {
        let ended = cluster.exec(0, &[&["etcdctl"], command].concat()).await.expect("the command runs");
        assert_eq!(ended.code, 0, "{command:?}: {ended:?}");
    };
    let now = kv.get_all("").await.expect("a listing of a full store").index;
    etcdctl(&["compact", &now.to_string()]).await;
    etcdctl(&["defrag"]).await;
    let full = kv.ping().await;
    assert!(matches!(full, Err(Error::StorageFull { .. })), "ping before the alarm is disarmed gave {full:?}");
    etcdctl(&["alarm", "disarm"]).await;
    kv.ping().await.expect("a store with room");
    let index = kv.set("small", "2").await.expect("a write to a store with room");
    let event = soon("an event", watch.next()).await.expect("the watch goes on").expect("an event");
    assert_eq!((event.index, &event.data[..]), (index, &b"2"[..]));
    let many = join_all((0..TOGETHER).map(|number| {
        let (kv, key) = (&kv, format!("small/{number}"));
        async move { kv.set(&key, "").await }
    }));
    many.await.into_iter().collect::<kv_core::Result<Vec<_>>>().expect("writes together");
    member.set("here").await.expect("a member's value");
    soon("a lock", kv.lock("lock", ttl)).await.expect("a lock").unlock().await.expect("unlocked");
    cluster.stop().await;
}

/// Requires that a write which succeeded is in the store, and that one which was not applied is not.
async fn check_fate(kv: &Kv, key: &str, fate: &kv_core::Result<u64>) {
    let stored = match kv.get(key).await {
        Ok(value) => Some(value.index),
        Err(Error::NotFound { .. }) => None,
        Err(error) => panic!("a full store cannot be read: {error:?}"),
    };
    match fate {
        Ok(index) => assert_eq!(stored, Some(*index), "the index of {key:?}, whose write succeeded"),
        Err(Error::Indeterminate { .. }) => {}
        Err(Error::StorageFull { .. } | Error::Unavailable { .. }) => {
            assert!(stored.is_none(), "{key:?} is in the store, and its write gave {fate:?}");
        }
        Err(error) => panic!("the write of {key:?} gave {error:?}"),
    }
}
