//! An etcd whose quota is used up: the reported fate of each write is true, and `ping` reports that the store is full.
//! Needs Docker.

use futures_util::future::join_all;
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
