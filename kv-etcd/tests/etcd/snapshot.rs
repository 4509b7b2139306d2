//! Large snapshots and directories.

use std::time::Instant;

use kv_core::Kv;
use tokio::sync::oneshot::error::TryRecvError;

use crate::support::{connect, server};

/// How many keys the snapshot has. The variable `KV_ETCD_SNAPSHOT_KEYS` sets another number.
fn keys() -> usize {
    std::env::var("KV_ETCD_SNAPSHOT_KEYS").ok().and_then(|text| text.parse().ok()).unwrap_or(50_000)
}

async fn fill(kv: &Kv, keys: usize) {
    let limit = kv.limits().txn_ops;
    let mut writers = Vec::new();
    for writer in 0..8 {
        let kv = kv.clone();
        writers.push(tokio::spawn(async move {
            let chunks = (0..keys).step_by(limit).skip(writer).step_by(8);
            for start in chunks {
                let end = (start + limit).min(keys);
                let txn =
                    (start..end).fold(kv.txn(), |txn, i| txn.set(&format!("d/{}/{i}", i / 5000), format!("{i:0>64}")));
                txn.commit().await.expect("a transaction");
            }
        }));
    }
    for writer in writers {
        writer.await.expect("a writer");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_store_is_listed_at_one_revision() {
    let keys = keys();
    let cluster = server().await;
    let kv = connect(&format!("{}?timeout=60s", cluster.address())).await;
    fill(&kv, keys).await;
    // Writers change everything while it is read.
    let (writing, stop) = (kv.clone(), tokio::sync::oneshot::channel::<()>());
    let writer = tokio::spawn(async move {
        let mut stop = stop.1;
        while stop.try_recv() == Err(TryRecvError::Empty) {
            let txn =
                writing.txn().set("d/0/0", "changed").set(&format!("d/{}/{}", (keys - 1) / 5000, keys - 1), "changed");
            txn.commit().await.expect("a transaction");
        }
    });
    let began = Instant::now();
    let listing = kv.get_all("d/").await.expect("a snapshot");
    println!("{keys} keys in {:?}", began.elapsed());
    assert_eq!(listing.values.len(), keys);
    let (first, last) = (&listing.values["d/0/0"], &listing.values[&format!("d/{}/{}", (keys - 1) / 5000, keys - 1)]);
    assert_eq!(first.data == "changed", last.data == "changed", "the two are written together");
    assert!(listing.values.values().all(|value| value.index <= listing.index));
    drop(stop.0);
    let _ = writer.await;

    let began = Instant::now();
    let children = kv.keys("d").await.expect("a listing");
    println!("{} directories in {:?}", children.len(), began.elapsed());
    assert_eq!(children.len(), keys.div_ceil(5000));
    assert!(children.iter().all(|child| child.ends_with('/')));
    cluster.stop().await;
}
