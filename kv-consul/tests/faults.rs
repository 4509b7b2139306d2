//! Clusters that lose members, and servers of another kind. Needs Docker.

mod support;

use std::time::{Duration, Instant};

use kv_conformance::servers::{Cluster, Kind, Options};
use kv_core::Error;
use support::{connect, registry, start, until};

#[tokio::test(flavor = "multi_thread")]
async fn without_a_leader_nothing_is_served() {
    let cluster = Cluster::start(Kind::Consul, 3, Options::default()).await.expect("three servers");
    let leader = cluster.await_leader(None).await.expect("a leader");
    let other = (leader + 1) % 3;
    let last = (leader + 2) % 3;
    let kv = connect(&format!("consul://{}", cluster.endpoints()[last])).await;
    kv.set("key", "1").await.expect("a write");
    cluster.kill(leader).await.expect("kill");
    cluster.kill(other).await.expect("kill");
    let began = Instant::now();
    let error = kv.ping().await.expect_err("one of three has no leader");
    assert!(error.is_retryable(), "{error:?}");
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    assert!(kv.get("key").await.is_err_and(|error| error.is_retryable()));
    let stale = registry().connect(&format!("consul://{}?consistency=stale", cluster.endpoints()[last])).await;
    assert!(stale.is_err(), "it cannot serve writes, whatever it may read");
    cluster.start_all_again().await.expect("start again");
    until("it serves again", async || kv.ping().await.is_ok()).await;
    kv.set("key", "2").await.expect("a write");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_agent_takes_over() {
    let cluster = Cluster::start(Kind::Consul, 3, Options::default()).await.expect("three servers");
    let kv = connect(&format!("consul://{}", cluster.endpoints().join(","))).await;
    let mut watch = kv.watch("", 0).await.expect("a watch");
    let lock = kv.lock("lock", Duration::from_secs(300)).await.expect("the lock");
    for round in 0..2 {
        // The agent in use first, then whoever leads.
        let victim = if round == 0 { 0 } else { cluster.await_leader(None).await.expect("a leader") };
        cluster.kill(victim).await.expect("kill");
        let key = format!("round-{round}");
        until("a write after the loss", async || kv.set(&key, "1").await.is_ok()).await;
        until("the lock is still held", async || lock.renew().await.is_ok()).await;
        loop {
            let event = support::soon("the event", watch.next()).await.expect("the watch goes on").expect("an event");
            if event.key == key {
                break;
            }
        }
        cluster.start_again(victim).await.expect("start again");
        cluster.await_all().await.expect("all serve again");
    }
    kv.txn().held(&lock).set("guarded", "1").commit().await.expect("a guarded write");
    lock.unlock().await.expect("unlocked");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_agent_is_passed_over() {
    let cluster = Cluster::start(Kind::Consul, 3, Options::default()).await.expect("three servers");
    let leader = cluster.await_leader(None).await.expect("a leader");
    let endpoints = cluster.endpoints();
    let (first, second) = ((leader + 1) % 3, (leader + 2) % 3);
    let kv = connect(&format!("consul://{},{}?timeout=4s", endpoints[first], endpoints[second])).await;
    kv.set("key", "1").await.expect("a write");
    cluster.pause(first).await.expect("pause");
    let began = Instant::now();
    kv.get("key").await.expect("a read goes on to the next agent");
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    kv.set("key", "2").await.expect("a write begins with the agent that answered last");
    cluster.resume(first).await.expect("resume");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generic_address_finds_consul_and_not_etcd() {
    let etcd = Cluster::start(Kind::Etcd, 1, Options::default()).await.expect("an etcd server");
    let consul = start(Options::default()).await;
    let kv = registry().connect(&format!("http://{}", consul.endpoints()[0])).await.expect("Consul answers");
    assert_eq!(kv.backend_name(), "consul");
    let began = Instant::now();
    let error = registry().connect(&format!("http://{}", etcd.endpoints()[0])).await.expect_err("etcd is no Consul");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let Error::NoneAnswered { attempts } = error else { panic!("{error:?}") };
    assert!(matches!(attempts[0].1, Error::UnexpectedAnswer { .. }), "{attempts:?}");
    etcd.stop().await;
    consul.stop().await;
}
