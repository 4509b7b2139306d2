//! Locks: with `etcdctl lock`, in long queues, and what they leave behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kv_conformance_servers::{Cluster, Tool};
use kv_core::{Error, EventType};

use crate::support::{connect, leases, server, soon, until};

const TTL: Duration = Duration::from_secs(60);

/// How many hold the lock or wait for it. This library does not show their entries, so etcd's own tool counts them.
async fn contenders(cluster: &Cluster, name: &str) -> usize {
    entries(cluster, name).await.len()
}

async fn entries(cluster: &Cluster, name: &str) -> Vec<String> {
    let output = cluster.exec(0, &["etcdctl", "get", "--prefix", "--keys-only", &format!("{name}/")]).await;
    let output = output.expect("etcdctl runs");
    assert_eq!(output.code, 0, "{}", output.stderr);
    output.stdout.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

async fn await_contenders(cluster: &Cluster, name: &str, count: usize) {
    until("contenders", || async { contenders(cluster, name).await == count }).await;
}

/// Takes the lock with etcd's own tool, which prints its key once it has the lock, and holds the lock until it ends.
async fn etcdctl_lock(cluster: &Cluster, name: &str) -> Tool {
    cluster.spawn(0, &["etcdctl", "lock", name]).await.expect("etcdctl runs")
}

async fn acquired(tool: &mut Tool, name: &str) {
    let line = soon("etcdctl has the lock", tool.line()).await.expect("its output");
    assert!(line.as_deref().is_some_and(|line| line.starts_with(&format!("{name}/"))), "{line:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn etcdctl_and_this_library_get_the_lock_in_the_order_in_which_they_asked() {
    let cluster = server().await;
    let kv = connect(&cluster.address()).await;
    let mut first = etcdctl_lock(&cluster, "leader").await;
    acquired(&mut first, "leader").await;
    assert!(kv.try_lock("leader", TTL).await.expect("an answer").is_none());

    let (waiting, name) = (kv.clone(), "leader");
    let second = tokio::spawn(async move { waiting.lock(name, TTL).await });
    await_contenders(&cluster, name, 2).await;
    let mut third = etcdctl_lock(&cluster, name).await;
    await_contenders(&cluster, name, 3).await;
    let waiting = kv.clone();
    let fourth = tokio::spawn(async move { waiting.lock(name, TTL).await });
    await_contenders(&cluster, name, 4).await;
    assert!(!second.is_finished() && !fourth.is_finished());

    first.signal("TERM").await.expect("etcdctl ends");
    let second = soon("the second has the lock", second).await.expect("a task").expect("the lock");
    assert!(!fourth.is_finished());
    assert_eq!(contenders(&cluster, name).await, 3);
    second.unlock().await.expect("still held");

    acquired(&mut third, name).await;
    assert!(!fourth.is_finished());
    third.signal("TERM").await.expect("etcdctl ends");
    let fourth = soon("the fourth has the lock", fourth).await.expect("a task").expect("the lock");
    assert_eq!(contenders(&cluster, name).await, 1);
    fourth.unlock().await.expect("still held");
    assert_eq!(contenders(&cluster, name).await, 0);
    until("no lease is left", || async { leases(&cluster).await == 0 }).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_is_given_up_leaves_nothing_behind() {
    let cluster = server().await;
    let kv = connect(&cluster.address()).await;
    let held = kv.lock("job", TTL).await.expect("the lock");
    let waiters: Vec<_> = (0..5)
        .map(|_| {
            let kv = kv.clone();
            tokio::spawn(async move { kv.lock("job", TTL).await.map(drop) })
        })
        .collect();
    await_contenders(&cluster, "job", 6).await;
    waiters.iter().for_each(tokio::task::JoinHandle::abort);
    await_contenders(&cluster, "job", 1).await;
    assert!(kv.try_lock("job", TTL).await.expect("an answer").is_none());
    assert_eq!(contenders(&cluster, "job").await, 1);
    until("one lease is left", || async { leases(&cluster).await == 1 }).await;
    drop(held);
    await_contenders(&cluster, "job", 0).await;
    until("no lease is left", || async { leases(&cluster).await == 0 }).await;

    let key = kv.ephemeral_key("node", TTL).await.expect("a key");
    assert!(kv.ephemeral_key("node", TTL).await.expect_err("it exists").is_conflict());
    key.destroy().await.expect("still ours");
    until("no lease is left", || async { leases(&cluster).await == 0 }).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_waiters_get_the_lock_one_after_another() {
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
    await_contenders(&cluster, "queue", WAITERS + 1).await;
    assert_eq!(done.load(Ordering::SeqCst), 0);
    held.unlock().await.expect("still held");
    let mut tokens = Vec::new();
    for task in tasks {
        tokens.push(soon("a waiter has its turn", task).await.expect("a task").expect("the lock"));
    }
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), WAITERS);
    await_contenders(&cluster, "queue", 0).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_survives_a_restart_of_the_server() {
    let cluster = server().await;
    let kv = connect(&cluster.address()).await;
    let held = kv.lock("job", TTL).await.expect("the lock");
    let waiting = kv.clone();
    let waiter = tokio::spawn(async move { waiting.lock("job", TTL).await });
    await_contenders(&cluster, "job", 2).await;
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
async fn a_stolen_key_is_noticed_and_left_alone() {
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

/// etcd's own tool counts every key below a lock's name as a contender. This library counts the tool's, and no data.
#[tokio::test(flavor = "multi_thread")]
async fn data_below_a_lock_of_etcdctl_is_no_contender() {
    let cluster = server().await;
    let kv = connect(&cluster.address()).await;
    kv.lock("leader", TTL).await.expect("the lock").unlock().await.expect("still held");
    let mut tool = etcdctl_lock(&cluster, "leader").await;
    acquired(&mut tool, "leader").await;
    kv.set("leader/1f", "data").await.expect("a write");
    kv.set("leader/config", "data").await.expect("a write");
    assert_eq!(kv.keys("leader").await.expect("keys"), ["leader/1f", "leader/config"]);
    assert!(kv.try_lock("leader", TTL).await.expect("an answer").is_none());
    let waiting = kv.clone();
    let waiter = tokio::spawn(async move { waiting.lock("leader", TTL).await });
    await_contenders(&cluster, "leader", 4).await;
    assert!(!waiter.is_finished());
    tool.signal("TERM").await.expect("etcdctl ends");
    let lock = soon("the waiter has the lock", waiter).await.expect("a task").expect("the lock");
    lock.unlock().await.expect("still held");
    let lock = kv.try_lock("leader", TTL).await.expect("an answer").expect("nobody has it");
    assert!(kv.try_lock("leader", TTL).await.expect("an answer").is_none());
    lock.unlock().await.expect("still held");
    await_contenders(&cluster, "leader", 2).await;
    until("no lease is left", || async { leases(&cluster).await == 0 }).await;
    cluster.stop().await;
}

/// A key that another program attaches to the lease in its name is the entry of a lock. With another lease, it is data.
#[tokio::test]
async fn an_entry_is_known_by_its_lease() {
    let cluster = server().await;
    let kv = connect(&cluster.address()).await;
    let mut early = kv.watch("", 0).await.expect("a watch");
    let output = cluster.exec(0, &["etcdctl", "lease", "grant", "600"]).await.expect("etcdctl runs");
    let lease = output.stdout.split_whitespace().nth(1).expect("the id").to_owned();
    // etcdctl pads the id with zeros, and contenders write it without them.
    let (entry, other) = (format!("dir/job/{}", lease.trim_start_matches('0')), format!("dir/job/{:x}", 0x1234));
    for key in [&entry, &other] {
        let output = cluster.exec(0, &["etcdctl", "put", key, "v", "--lease", &lease]).await.expect("etcdctl runs");
        assert_eq!(output.code, 0, "{}", output.stderr);
    }
    assert!(kv.get(&entry).await.expect_err("it is no key").is_key_not_found());
    assert_eq!(&*kv.get(&other).await.expect("data").data, b"v");
    assert_eq!(kv.keys("dir/job").await.expect("keys"), [other.as_str()]);
    assert_eq!(kv.get_all("").await.expect("a listing").values.into_keys().collect::<Vec<_>>(), [other.as_str()]);
    let mut late = kv.watch("", 0).await.expect("a watch");
    let output = cluster.exec(0, &["etcdctl", "lease", "revoke", &lease]).await.expect("etcdctl runs");
    assert_eq!(output.code, 0, "{}", output.stderr);
    for (watch, kinds) in [(&mut early, &[EventType::Create, EventType::Delete][..]), (&mut late, &[EventType::Delete])]
    {
        for kind in kinds {
            let event = soon("an event", watch.next()).await.expect("the watch goes on").expect("an event");
            assert_eq!((&event.key, event.event_type), (&other, *kind));
        }
    }
    assert!(kv.keys("").await.expect("keys").is_empty(), "a directory with nothing but locks is not shown");
    cluster.stop().await;
}

/// Keys of other programs may end in `/`.
#[tokio::test]
async fn a_folder_is_no_child_of_itself() {
    let cluster = server().await;
    let kv = connect(&cluster.address()).await;
    for key in ["dir/", "dir/x", "dir/sub/"] {
        let output = cluster.exec(0, &["etcdctl", "put", key, "v"]).await.expect("etcdctl runs");
        assert_eq!(output.code, 0, "{}", output.stderr);
    }
    assert_eq!(kv.keys("").await.expect("keys"), ["dir/"]);
    assert_eq!(kv.keys("dir").await.expect("keys"), ["dir/sub/", "dir/x"]);
    assert!(kv.keys("dir/sub").await.expect("keys").is_empty());
    let rooted = connect(&format!("{}/dir", cluster.address())).await;
    assert_eq!(rooted.keys("").await.expect("keys"), ["sub/", "x"]);
    cluster.stop().await;
}
