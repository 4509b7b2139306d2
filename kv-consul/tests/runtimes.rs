//! One handle in several tokio runtimes (clause S1). Needs Docker.

mod support;

use std::time::Duration;

use kv_conformance_servers::{Cluster, Options};
use kv_core::{EphemeralKey, Error, Kv, Lock, Watch};
use support::{connect, soon, start};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

/// Far longer than any test.
const LONG: Duration = Duration::from_secs(300);

fn single() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn multi() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

/// A server that a runtime of its own keeps running.
struct Server {
    runtime: Runtime,
    cluster: Option<Cluster>,
}

impl Server {
    fn start() -> Self {
        let runtime = multi();
        let cluster = runtime.block_on(start(Options::default()));
        Self { runtime, cluster: Some(cluster) }
    }

    fn address(&self) -> String {
        self.cluster.as_ref().expect("it runs").address()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(cluster) = self.cluster.take() {
            self.runtime.block_on(cluster.stop());
        }
    }
}

/// What a handle has left in its first runtime.
struct Used {
    kv: Kv,
    lock: Lock,
    member: EphemeralKey,
    watch: Watch,
}

/// Uses everything that runs in the background.
async fn first_use(address: &str) -> Used {
    let kv = connect(address).await;
    write_many(&kv, "first").await;
    let watch = kv.watch("w/", 0).await.expect("a watch");
    let lock = kv.lock("held", LONG).await.expect("a lock");
    let member = kv.ephemeral_key("member", LONG).await.expect("a key");
    // A wait for a lock, and a write, both abandoned halfway.
    assert!(tokio::time::timeout(Duration::from_millis(300), kv.lock("held", LONG)).await.is_err());
    let _ = tokio::time::timeout(Duration::from_millis(1), write_many(&kv, "given up")).await;
    Used { kv, lock, member, watch }
}

/// Writes so many keys at a time that they share transactions.
async fn write_many(kv: &Kv, directory: &str) {
    let mut writing = JoinSet::new();
    for number in 0..50 {
        let (kv, key) = (kv.clone(), format!("{directory}/{number}"));
        writing.spawn(async move { kv.set(&key, "1").await.expect("a write") });
    }
    writing.join_all().await;
}

/// Uses everything from another runtime.
async fn second_use(kv: &Kv, lock: &Lock, member: &EphemeralKey) {
    let index = kv.set("key", "1").await.expect("a write");
    assert_eq!(kv.get("key").await.expect("a read").index, index);
    write_many(kv, "second").await;
    // The same prefix as in the first runtime.
    let mut watch = kv.watch("w/", 0).await.expect("a watch");
    for number in 0..3 {
        let key = format!("w/{number}");
        kv.set(&key, "1").await.expect("a write");
        assert_eq!(watch.next().await.expect("the watch goes on").expect("an event").key, key);
    }
    lock.renew().await.expect("a renewal");
    member.renew().await.expect("a renewal");
    member.set("1").await.expect("a write");
    assert!(kv.try_lock("held", LONG).await.expect("an answer").is_none());
    let other = kv.lock("other", LONG).await.expect("a lock");
    other.unlock().await.expect("unlocked");
}

#[test]
fn a_handle_outlives_the_runtime_of_its_first_use() {
    let server = Server::start();
    for first in [single(), multi()] {
        let Used { kv, lock, member, mut watch } = first.block_on(first_use(&server.address()));
        first.shutdown_background();
        for second in [single(), multi()] {
            second.block_on(soon("everything", second_use(&kv, &lock, &member)));
        }
        multi().block_on(async {
            let ended = soon("the end of the watch", async {
                loop {
                    match watch.next().await {
                        Some(Ok(_)) => {}
                        other => break other,
                    }
                }
            });
            let ended = ended.await;
            assert!(matches!(ended, Some(Err(Error::Unavailable { .. }))), "{ended:?}");
            let waiting = kv.lock("held", LONG);
            let unlocking = async { lock.unlock().await.expect("unlocked") };
            let (next, ()) = soon("the next holder", async { tokio::join!(waiting, unlocking) }).await;
            next.expect("a lock").unlock().await.expect("unlocked");
            member.destroy().await.expect("destroyed");
        });
    }
}

#[test]
fn a_handle_works_beside_an_idle_runtime() {
    let server = Server::start();
    let idle = single();
    let Used { kv, lock, member, mut watch } = idle.block_on(first_use(&server.address()));
    for second in [single(), multi()] {
        second.block_on(soon("everything", second_use(&kv, &lock, &member)));
    }
    // The idle runtime has lost nothing.
    idle.block_on(soon("the events", async {
        for number in 0..3 {
            let event = watch.next().await.expect("the watch goes on").expect("an event");
            assert_eq!(event.key, format!("w/{number}"));
        }
        lock.unlock().await.expect("unlocked");
        member.destroy().await.expect("destroyed");
    }));
}

#[test]
fn many_short_runtimes_share_a_handle() {
    let server = Server::start();
    let kv = server.runtime.block_on(connect(&server.address()));
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let kv = kv.clone();
            std::thread::spawn(move || {
                for round in 0..10 {
                    single().block_on(soon("the writes", write_many(&kv, &format!("{thread}/{round}"))));
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("every write is applied");
    }
}
