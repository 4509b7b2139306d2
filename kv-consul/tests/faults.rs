//! Clusters that lose members, and servers of another kind. Needs Docker.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kv_conformance_servers::{Cluster, Kind, Options};
use kv_core::Error;
use support::{connect, registry, start, until};
use tokio::task::JoinSet;

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
    let error = kv.ping().await.expect_err("one member of three has no leader");
    assert!(error.is_retryable(), "{error:?}");
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    assert!(kv.get("key").await.is_err_and(|error| error.is_retryable()));
    let stale = registry().connect(&format!("consul://{}?consistency=stale", cluster.endpoints()[last])).await;
    assert!(stale.is_err(), "it cannot serve writes, even if it may serve stale reads");
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
        // First the agent in use is killed, then the leader.
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

/// Planned restarts, as in an upgrade (clause S5).
#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_costs_time_but_no_calls() {
    let cluster = Cluster::start(Kind::Consul, 3, Options::default()).await.expect("three servers");
    let kv = connect(&format!("consul://{}", cluster.endpoints().join(","))).await;
    let restarted = Arc::new(AtomicBool::new(false));
    let mut busy = JoinSet::new();
    for task in 0..8 {
        let (kv, restarted) = (kv.clone(), restarted.clone());
        busy.spawn(async move {
            let (mut calls, mut unknown) = (0, 0);
            while !restarted.load(Ordering::SeqCst) {
                let key = format!("{task}/{}", calls % 100);
                match kv.set(&key, "1").await {
                    Ok(_) => {}
                    // A write was in flight when its agent stopped.
                    Err(Error::Indeterminate { .. }) => unknown += 1,
                    Err(error) => panic!("{key}: {error:?}"),
                }
                match kv.get(&key).await {
                    Err(error) if !error.is_key_not_found() => panic!("{key}: {error:?}"),
                    _ => calls += 1,
                }
            }
            (calls, unknown)
        });
    }
    for member in 0..3 {
        cluster.restart(member).await.expect("a restart");
        cluster.await_all().await.expect("all serve again");
    }
    restarted.store(true, Ordering::SeqCst);
    let results = busy.join_all().await;
    println!("calls, and writes of unknown outcome, of each task: {results:?}");
    // At most one write of each task was in flight at each of the three restarts, and at the elections.
    assert!(results.iter().map(|(_, unknown)| unknown).sum::<usize>() <= 48, "{results:?}");
    cluster.stop().await;
}
