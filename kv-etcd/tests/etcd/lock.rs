//! Locks together with etcd's own `etcdctl lock`, in queues, and what they leave behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kv_conformance_servers::{Cluster, Tool};
use kv_core::{Error, Kv};

use crate::support::{connect, leases, server, soon, until};

const TTL: Duration = Duration::from_secs(60);

/// How many hold the lock or wait for it.
async fn contenders(kv: &Kv, name: &str) -> usize {
    kv.keys(name).await.expect("a listing").len()
}

async fn await_contenders(kv: &Kv, name: &str, count: usize) {
    until("contenders", || async { contenders(kv, name).await == count }).await;
}

/// Begins to take the lock by etcd's own tool, which prints its key once it has it, and holds it until it is ended.
async fn etcdctl_lock(cluster: &Cluster, name: &str) -> Tool {
    cluster.spawn(0, &["etcdctl", "lock", name]).await.expect("etcdctl runs")
}

async fn acquired(tool: &mut Tool, name: &str) {
    let line = soon("etcdctl has the lock", tool.line()).await.expect("its output");
    assert!(line.as_deref().is_some_and(|line| line.starts_with(&format!("{name}/"))), "{line:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn etcdctl_and_this_lock_take_turns_in_the_order_they_came() {
    let cluster = server().await;
    let kv = connect(&cluster.address()).await;
    let mut first = etcdctl_lock(&cluster, "leader").await;
    acquired(&mut first, "leader").await;
    assert!(kv.try_lock("leader", TTL).await.expect("an answer").is_none());

    let (waiting, name) = (kv.clone(), "leader");
    let second = tokio::spawn(async move { waiting.lock(name, TTL).await });
    await_contenders(&kv, name, 2).await;
    let mut third = etcdctl_lock(&cluster, name).await;
    await_contenders(&kv, name, 3).await;
    let waiting = kv.clone();
    let fourth = tokio::spawn(async move { waiting.lock(name, TTL).await });
    await_contenders(&kv, name, 4).await;
    assert!(!second.is_finished() && !fourth.is_finished());

    first.signal("TERM").await.expect("etcdctl ends");
    let second = soon("the second has the lock", second).await.expect("a task").expect("the lock");
    assert!(!fourth.is_finished());
    assert_eq!(contenders(&kv, name).await, 3);
    second.unlock().await.expect("still held");

    acquired(&mut third, name).await;
    assert!(!fourth.is_finished());
    third.signal("TERM").await.expect("etcdctl ends");
    let fourth = soon("the fourth has the lock", fourth).await.expect("a task").expect("the lock");
    assert_eq!(contenders(&kv, name).await, 1);
    fourth.unlock().await.expect("still held");
    assert_eq!(contenders(&kv, name).await, 0);
    until("no lease is left", || async { leases(&cluster).await == 0 }).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_give_up_leave_nothing_behind() {
    let cluster = server().await;
    let kv = connect(&cluster.address()).await;
    let held = kv.lock("job", TTL).await.expect("the lock");
    let waiters: Vec<_> = (0..5)
        .map(|_| {
            let kv = kv.clone();
            tokio::spawn(async move { kv.lock("job", TTL).await.map(drop) })
        })
        .collect();
    await_contenders(&kv, "job", 6).await;
    waiters.iter().for_each(tokio::task::JoinHandle::abort);
    await_contenders(&kv, "job", 1).await;
    assert!(kv.try_lock("job", TTL).await.expect("an answer").is_none());
    assert_eq!(contenders(&kv, "job").await, 1);
    until("one lease is left", || async { leases(&cluster).await == 1 }).await;
    drop(held);
    await_contenders(&kv, "job", 0).await;
    until("no lease is left", || async { leases(&cluster).await == 0 }).await;

    let key = kv.ephemeral_key("node", TTL).await.expect("a key");
    assert!(kv.ephemeral_key("node", TTL).await.expect_err("it exists").is_conflict());
    key.destroy().await.expect("still ours");
    until("no lease is left", || async { leases(&cluster).await == 0 }).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_wait_in_a_queue() {
    const WAITERS: usize = 500;
    let cluster = server().await;
    let kv = connect(&cluster.address()).await;
    let held = kv.lock("queue", TTL).await.expect("the lock");
    let (inside, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut tasks = Vec::new();
    for _ in 0..WAITERS {
        let (kv, inside, done) = (kv.clone(), Arc::clone(&inside), Arc::clone(&done));
        tasks.push(tokio::spawn(async move {
            let lock = kv.lock("queue", TTL).await?;
            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two hold the lock");
            let token = lock.token();
            inside.fetch_sub(1, Ordering::SeqCst);
            done.fetch_add(1, Ordering::SeqCst);
            lock.unlock().await?;
            Ok::<_, Error>(token)
        }));
    }
    await_contenders(&kv, "queue", WAITERS + 1).await;
    assert_eq!(done.load(Ordering::SeqCst), 0);
    held.unlock().await.expect("still held");
    let mut tokens = Vec::new();
    for task in tasks {
        tokens.push(soon("a waiter has its turn", task).await.expect("a task").expect("the lock"));
    }
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), WAITERS);
    await_contenders(&kv, "queue", 0).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_goes_on_through_the_death_of_the_server() {
    let cluster = server().await;
    let kv = connect(&cluster.address()).await;
    let held = kv.lock("job", TTL).await.expect("the lock");
    let waiting = kv.clone();
    let waiter = tokio::spawn(async move { waiting.lock("job", TTL).await });
    await_contenders(&kv, "job", 2).await;
    cluster.kill(0).await.expect("a fault");
    cluster.start_again(0).await.expect("a healed fault");
    until("the holder has renewed", || async { held.renew().await.is_ok() }).await;
    assert!(!waiter.is_finished());
    until("the lock is free", || async { kv.keys("job").await.is_ok() }).await;
    held.unlock().await.expect("still held");
    let lock = soon("the waiter has the lock", waiter).await.expect("a task").expect("the lock");
    lock.unlock().await.expect("still held");
    cluster.stop().await;
}

#[tokio::test]
async fn a_stolen_key_is_noticed_and_not_touched() {
    let cluster = server().await;
    let kv = connect(&cluster.address()).await;
    let lock = kv.lock("job", TTL).await.expect("the lock");
    kv.delete_tree("job").await.expect("a theft");
    assert!(kv.txn().held(&lock).set("result", "").commit().await.expect_err("it is stolen").is_lost());
    assert!(lock.renew().await.expect_err("it is stolen").is_lost());
    assert!(lock.unlock().await.expect_err("it is stolen").is_lost());

    let key = kv.ephemeral_key("node", TTL).await.expect("a key");
    key.set("mine").await.expect("a write");
    kv.delete("node").await.expect("a theft");
    let theirs = kv.set("node", "theirs").await.expect("a write");
    assert!(key.set("mine").await.expect_err("it is stolen").is_lost());
    assert!(key.destroy().await.expect_err("it is stolen").is_lost());
    assert_eq!(kv.get("node").await.expect("a value").index, theirs);
    until("no lease is left", || async { leases(&cluster).await == 0 }).await;
    cluster.stop().await;
}
