//! An etcd whose quota is used up: what it says of each write is true, and `ping` says that it is full. Needs Docker.

use futures_util::future::join_all;
use kv_conformance_servers::{Cluster, Kind, Options};
use kv_core::{Error, Registry};

const QUOTA: usize = 24 << 20;
const WRITES: usize = 40;
const BYTES: usize = 1 << 20;

#[tokio::test]
async fn writes_to_a_full_etcd_tell_their_fate() {
    let options = Options::default().argument(format!("--quota-backend-bytes={QUOTA}"));
    let cluster = Cluster::start(Kind::Etcd, 1, options).await.expect("a server");
    let kv = Registry::new().with(kv_etcd::REGISTRATION).connect(&cluster.address()).await.expect("a client");
    kv.set("small", "1").await.expect("a write while there is room");

    let writing = (0..WRITES).map(|number| {
        let kv = &kv;
        async move { (number, kv.set(&format!("large/{number}"), vec![b'x'; BYTES]).await) }
    });
    let mut refused = 0;
    for (number, fate) in join_all(writing).await {
        let stored = kv.get(&format!("large/{number}")).await;
        assert!(!matches!(stored, Err(ref error) if !error.is_key_not_found()), "a full store is read: {stored:?}");
        match &fate {
            Ok(index) => assert_eq!(stored.expect("a write that succeeded").index, *index),
            Err(Error::Indeterminate { .. }) => refused += 1,
            Err(Error::StorageFull { .. } | Error::Unavailable { .. }) => {
                refused += 1;
                assert!(stored.is_err(), "write {number} is in the store, and gave {fate:?}");
            }
            Err(error) => panic!("write {number} gave {error:?}"),
        }
    }
    assert!(refused > 0, "{WRITES} writes of {BYTES} bytes fit into {QUOTA}");
    let full = kv.ping().await;
    assert!(matches!(full, Err(Error::StorageFull { .. })), "ping of a full store gave {full:?}");
    let refused = kv.set("small", vec![b'x'; BYTES]).await;
    let told = matches!(refused, Err(Error::StorageFull { .. } | Error::Indeterminate { .. }));
    assert!(told, "a write to a full store gave {refused:?}");
    assert_eq!(kv.get("small").await.expect("a read of a full store").data, "1");
    cluster.stop().await;
}
