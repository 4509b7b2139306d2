//! Watches under faults, and the cost of many watches.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kv_conformance_servers::{Cluster, Options};
use kv_core::{Error, Event, EventType, Kv, Watch};
use tokio::time::sleep;

use crate::support::{Relay, connect, server, servers, soon, until};

const WRITES: usize = 10_000;
const WRITERS: usize = 128;

/// Writes from many tasks, each to its own keys, until enough writes are acknowledged; returns the index of each.
async fn write(kv: &Kv, acknowledged: &Arc<AtomicUsize>) -> BTreeMap<String, u64> {
    let writers = (0..WRITERS).map(|writer| {
        let (kv, acknowledged) = (kv.clone(), Arc::clone(acknowledged));
        tokio::spawn(async move {
            let mut indices = BTreeMap::new();
            for number in 0.. {
                if acknowledged.load(Ordering::SeqCst) >= WRITES {
                    break;
                }
                let key = format!("w/{writer}/{number}");
                match kv.set(&key, "value").await {
                    Ok(index) => {
                        acknowledged.fetch_add(1, Ordering::SeqCst);
                        indices.insert(key, index);
                    }
                    Err(Error::Unavailable { .. } | Error::Indeterminate { .. }) => {
                        sleep(Duration::from_millis(20)).await;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            indices
        })
    });
    let mut all = BTreeMap::new();
    for writer in writers.collect::<Vec<_>>() {
        all.extend(writer.await.expect("a writer"));
    }
    all
}

/// Writes keys in order, with values of this size, in transactions of the largest size.
async fn write_together(kv: &Kv, keys: impl Iterator<Item = String>, size: usize) {
    let keys: Vec<String> = keys.collect();
    for keys in keys.chunks(kv.limits().txn_ops) {
        let txn = keys.iter().fold(kv.txn(), |txn, key| txn.set(key, vec![0; size]));
        txn.commit().await.expect("a transaction");
    }
}

/// All events up to that of the key `end`.
async fn events_until_end(watch: &mut Watch) -> Vec<Event> {
    let mut events = Vec::new();
    loop {
        let event = soon("an event", watch.next()).await.expect("the watch goes on").expect("no error");
        if event.key == "w/end" {
            return events;
        }
        events.push(event);
    }
}

/// Every acknowledged write is seen once, at its index; none is seen twice; indices never go backwards.
fn judge(events: &[Event], acknowledged: &BTreeMap<String, u64>) {
    let mut seen = BTreeMap::new();
    for pair in events.windows(2) {
        assert!(pair[0].index <= pair[1].index, "{pair:?}");
    }
    for event in events {
        assert_eq!(event.event_type, EventType::Create, "{event:?}");
        assert_eq!(seen.insert(event.key.clone(), event.index), None, "{event:?} was delivered twice");
    }
    for (key, index) in acknowledged {
        assert_eq!(seen.get(key), Some(index), "{key}");
    }
}

async fn survives(cluster: &Cluster, members_to_kill: &[usize]) {
    let kv = connect(&cluster.address()).await;
    let watching = connect(&cluster.address()).await;
    let mut watch = watching.watch("w/", 0).await.expect("a watch");
    let acknowledged = Arc::new(AtomicUsize::new(0));
    let reader = tokio::spawn(async move { events_until_end(&mut watch).await });
    let hurt = async {
        let step = WRITES / (members_to_kill.len() + 1);
        for (i, member) in members_to_kill.iter().enumerate() {
            until("writes", || async { acknowledged.load(Ordering::SeqCst) > step * (i + 1) }).await;
            cluster.kill(*member).await.expect("a fault");
            cluster.start_again(*member).await.expect("a healed fault");
        }
    };
    let (indices, ()) = tokio::join!(write(&kv, &acknowledged), hurt);
    assert!(indices.len() >= WRITES);
    kv.set("w/end", "").await.expect("the last write");
    judge(&reader.await.expect("a reader"), &indices);
}

#[tokio::test(flavor = "multi_thread")]
async fn survives_the_death_of_the_only_server() {
    let cluster = server().await;
    survives(&cluster, &[0]).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn survives_the_loss_of_its_endpoint_and_of_the_leader() {
    let cluster = servers(3, Options::default()).await;
    // Clients are connected to the first member.
    survives(&cluster, &[0, 1, 2]).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn survives_an_endpoint_that_falls_silent() {
    let cluster = servers(3, Options::default()).await;
    let kv = connect(&cluster.address_of(1)).await;
    let watching = connect(&format!("{}?timeout=2s", cluster.address())).await;
    let mut watch = watching.watch("w/", 0).await.expect("a watch");
    cluster.pause(0).await.expect("a fault");
    until("a write", || async { kv.set("w/a", "").await.is_ok() }).await;
    let event = soon("an event from another member", watch.next()).await.expect("the watch goes on").expect("an event");
    assert_eq!(event.key, "w/a");
    until("a read by another member", || async { watching.get("w/a").await.is_ok() }).await;
    cluster.resume(0).await.expect("a healed fault");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn survives_an_endpoint_that_is_isolated_from_its_cluster() {
    let cluster = servers(3, Options::default()).await;
    let kv = connect(&cluster.address_of(1)).await;
    let watching = connect(&cluster.address()).await;
    let mut watch = watching.watch("w/", 0).await.expect("a watch");
    cluster.isolate(0).await.expect("a fault");
    until("a write", || async { kv.set("w/a", "").await.is_ok() }).await;
    let event = soon("an event from another member", watch.next()).await.expect("the watch goes on").expect("an event");
    assert_eq!(event.key, "w/a");
    cluster.rejoin(0).await.expect("a healed fault");
    cluster.stop().await;
}

#[tokio::test]
async fn a_watch_that_begins_in_compacted_history_ends_with_compacted() {
    let cluster = server().await;
    let kv = connect(&cluster.address()).await;
    let first = kv.set("k", "1").await.expect("a write");
    for number in 2..10 {
        kv.set("k", number.to_string()).await.expect("a write");
    }
    let last = kv.get("k").await.expect("a value").index;
    let output = cluster.exec(0, &["etcdctl", "compact", &(last - 1).to_string()]).await.expect("etcdctl runs");
    assert_eq!(output.code, 0, "{}", output.stderr);
    let error = match kv.watch("k", first).await {
        Ok(mut watch) => {
            let error = soon("the end", watch.next()).await.expect("an item").expect_err("no events");
            assert!(watch.next().await.is_none());
            error
        }
        Err(error) => error,
    };
    let Error::Compacted { after, oldest: Some(oldest) } = error else { panic!("{error}") };
    assert_eq!((after, oldest), (first, last - 1));
    let mut watch = kv.watch("k", oldest).await.expect("a watch");
    let event = soon("an event", watch.next()).await.expect("the watch goes on").expect("an event");
    assert_eq!((event.index, event.data.as_ref()), (last, b"9".as_ref()));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_watches_take_one_connection() {
    let cluster = server().await;
    let relay = Relay::to(&cluster.endpoints()[0]).await;
    let kv = connect(&format!("etcd://{}", relay.address)).await;
    let opening = (0..1000).map(|number| {
        let (kv, prefix) = (kv.clone(), format!("w/{number}/"));
        tokio::spawn(async move { kv.watch(&prefix, 0).await })
    });
    let mut watches = Vec::new();
    for opened in opening.collect::<Vec<_>>() {
        watches.push(opened.await.expect("a task").expect("a watch"));
    }
    write_together(&kv, (0..1000).map(|number| format!("w/{number}/key")), 0).await;
    for (number, watch) in watches.iter_mut().enumerate() {
        let event = soon("an event", watch.next()).await.expect("the watch goes on").expect("an event");
        assert_eq!(event.key, format!("w/{number}/key"));
    }
    assert_eq!(relay.connections(), 1);
    drop(watches);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_the_last_handle_closes_the_connection() {
    let cluster = server().await;
    let relay = Relay::to(&cluster.endpoints()[0]).await;
    let kv = connect(&format!("etcd://{}", relay.address)).await;
    let mut watch = kv.watch("w/", 0).await.expect("a watch");
    kv.set("w/a", "").await.expect("a write");
    soon("an event", watch.next()).await.expect("the watch goes on").expect("an event");
    drop(kv);
    assert_eq!(relay.open(), 1, "a watch needs its connection");
    drop(watch);
    until("the connection is closed", || async { relay.open() == 0 }).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_is_not_read_delays_no_other_and_loses_nothing() {
    const EVENTS: usize = 5000;
    let cluster = server().await;
    let kv = connect(&cluster.address()).await;
    let mut slow = kv.watch("w/", 0).await.expect("a watch");
    let mut fast = kv.watch("w/", 0).await.expect("a watch");
    let writes = write_together(&kv, (0..EVENTS).map(|number| format!("w/{number}")), 1000);
    let reads = async {
        for number in 0..EVENTS {
            let event = soon("an event", fast.next()).await.expect("the watch goes on").expect("an event");
            assert_eq!(event.key, format!("w/{number}"));
        }
    };
    tokio::join!(writes, reads);
    for number in 0..EVENTS {
        let event = soon("an event", slow.next()).await.expect("the watch goes on").expect("an event");
        assert_eq!(event.key, format!("w/{number}"));
    }
    // It is up to date, and continues.
    kv.set("w/last", "").await.expect("a write");
    assert_eq!(soon("an event", slow.next()).await.expect("the watch goes on").expect("an event").key, "w/last");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_histories_are_delivered_whole_and_in_order() {
    const TRANSACTIONS: usize = 12;
    const KEYS: usize = 7;
    let cluster = server().await;
    let kv = connect(&cluster.address()).await;
    let before = kv.set("start", "").await.expect("a write");
    let mut indices = Vec::new();
    for _ in 0..TRANSACTIONS {
        // Larger than half of a message from etcd, so that fragments end between and within transactions.
        let txn = (0..KEYS).fold(kv.txn(), |txn, key| txn.set(&format!("w/{key}"), vec![1; 200_000]));
        indices.push(txn.commit().await.expect("a transaction").expect("an index"));
    }
    let mut watch = kv.watch("w/", before).await.expect("a watch");
    for index in indices {
        for key in 0..KEYS {
            let event = soon("an event", watch.next()).await.expect("the watch goes on").expect("an event");
            assert_eq!((event.index, event.key, event.data.len()), (index, format!("w/{key}"), 200_000));
        }
    }
    cluster.stop().await;
}

/// An empty server replaces the one that a watch follows, at the same address
/// ([clause E8](kv_core::contract::CLAUSES#E8)).
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_replaced_by_an_empty_one_is_noticed() {
    let (old, new) = (server().await, server().await);
    let relay = Relay::to(&old.endpoints()[0]).await;
    let kv = connect(&format!("etcd://{}", relay.address)).await;
    let mut watch = kv.watch("w/", 0).await.expect("a watch");
    let mut last = 0;
    for number in 0..20 {
        last = kv.set(&format!("w/{number}"), "").await.expect("a write");
        soon("an event", watch.next()).await.expect("the watch goes on").expect("an event");
    }
    relay.turn_to(&new.endpoints()[0]);
    let error = soon("the end", watch.next()).await.expect("an item").expect_err("the history is gone");
    assert!(matches!(error, Error::Compacted { after, .. } if after == last), "{error:?}");
    assert!(soon("the end", watch.next()).await.is_none());
    let (listing, _watch) = kv.observe("w/").await.expect("an observation");
    assert!(listing.values.is_empty());
    old.stop().await;
    new.stop().await;
}
