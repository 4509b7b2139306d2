//! One leader at a time, and a store that refuses the writes of a former leader.
//!
//! ```text
//! cargo run --example leader_election [ADDRESS]
//! ```
//!
//! A lock alone cannot stop a leader that was paused and wakes up after its lock has passed on. So every write of a
//! leader carries `held(&lock)`: the store checks it together with the write.

use std::sync::Arc;
use std::time::Duration;

use kv_core::{Kv, Result};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use kv_consul as _;
use kv_etcd as _;
use kv_memory as _;

const TERMS: u64 = 6;

#[tokio::main]
async fn main() -> Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "memory://".to_owned());
    let kv = kv_core::connect(&address).await?.scoped(&format!("leader-election-{}", std::process::id()))?;
    let outcome = run(&kv).await;
    // Also after an error, what is still held is given back before the process ends.
    kv.close().await?;
    outcome
}

async fn run(kv: &Kv) -> Result<()> {
    kv.set("terms", "0").await?;

    let mut candidates = JoinSet::new();
    let together = Arc::new(Barrier::new(3));
    for name in ["anna", "berta", "clara"] {
        let (kv, together) = (kv.clone(), together.clone());
        candidates.spawn(async move {
            together.wait().await;
            campaign(kv, name).await
        });
    }
    while let Some(candidate) = candidates.join_next().await {
        candidate.expect("a candidate does not panic")?;
    }
    too_late(kv).await?;
    kv.delete_tree("").await
}

/// Leads repeatedly, until all candidates together have served enough terms.
async fn campaign(kv: Kv, name: &'static str) -> Result<()> {
    loop {
        let lock = kv.lock("locks/leader", ttl(&kv)).await?;
        // If the lock is lost, `hold` stops this term.
        let served = lock.hold(async {
            let served: u64 = String::from_utf8_lossy(&kv.get("terms").await?.data).parse().unwrap_or(TERMS);
            if served < TERMS {
                println!("{name} leads term {}, with token {}", served + 1, lock.token());
                // The work of a leader, which is only a pause here.
                tokio::time::sleep(Duration::from_millis(5)).await;
                kv.txn().held(&lock).set("terms", (served + 1).to_string()).set("leader", name).commit().await?;
            }
            Ok::<_, kv_core::Error>(served)
        });
        let served = served.await??;
        lock.unlock().await?;
        if served >= TERMS {
            return Ok(());
        }
    }
}

/// A write that one leader prepares, and that arrives when another one leads.
async fn too_late(kv: &Kv) -> Result<()> {
    let old = kv.lock("locks/leader", ttl(kv)).await?;
    let unsafe_write = kv.txn().set("leader", "the old one, unguarded");
    let safe_write = kv.txn().held(&old).set("leader", "the old one, guarded");
    old.unlock().await?;
    let new = kv.lock("locks/leader", ttl(kv)).await?;
    kv.txn().held(&new).set("leader", "the new one").commit().await?;

    let refused = safe_write.commit().await.is_err_and(|error| error.is_lost());
    println!("guarded: refused? {refused}; the leader is {:?}", kv.get("leader").await?.data);
    unsafe_write.commit().await?;
    println!("unguarded: the leader is {:?}, which is wrong", kv.get("leader").await?.data);
    new.unlock().await
}

fn ttl(kv: &Kv) -> Duration {
    kv.limits().min_ttl.max(Duration::from_secs(10))
}
