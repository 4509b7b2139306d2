//! Every verb of the interface, one after another, on the store at the given address; `memory://` by default.
//!
//! ```text
//! cargo run --example tour
//! cargo run --example tour etcd://127.0.0.1:2379/tour
//! ```
//!
//! Read it from top to bottom: it prints each call and its result. It uses a directory of its own, and removes it in
//! the end.

use std::time::Duration;

use kv_core::{Error, Kv, Result, Value, connect};

// Linking a backend makes it available. No code below names one.
use kv_consul as _;
use kv_etcd as _;
use kv_memory as _;

#[tokio::main]
async fn main() -> Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "memory://".to_owned());
    heading(&format!("connect({address:?})"));
    let store = connect(&address).await?;
    println!("a {} store; what it takes and promises:\n{:#?}", store.backend_name(), store.limits());
    store.ping().await?;
    println!("ping: it can serve");

    // Everything below is relative to this directory.
    let kv = store.scoped(&format!("tour-{}", std::process::id()))?;
    let result = tour(&kv).await;
    kv.delete_tree("").await?;
    // Gives back what is still held. Without this, other clients would wait for its time to live.
    kv.close().await?;
    result
}

async fn tour(kv: &Kv) -> Result<()> {
    reads_and_writes(kv).await?;
    compare_and_swap(kv).await?;
    transactions(kv).await?;
    watches(kv).await?;
    ephemeral_keys(kv).await?;
    locks(kv).await?;
    errors(kv).await
}

async fn reads_and_writes(kv: &Kv) -> Result<()> {
    heading("set, get, get_all, keys, delete, delete_tree");
    let index = kv.set("config/port", "8080").await?;
    println!("set config/port        -> index {index}");
    let value = kv.get("config/port").await?;
    println!("get config/port        -> {:?} at index {}", value.data, value.index);
    kv.set("config/tls/cert", "…").await?;
    kv.set("config/tls/key", "…").await?;
    kv.set("configuration", "a sibling").await?;
    let listing = kv.get_all("config").await?;
    println!("get_all config         -> {:?}: a prefix is a string", listing.values.keys());
    println!("keys config            -> {:?}: a directory is not", kv.keys("config").await?);
    kv.delete("config/port").await?;
    kv.delete("config/port").await?;
    println!("delete config/port     -> done; a second time is no error");
    kv.delete_tree("config").await?;
    println!("delete_tree config     -> {:?} is left", kv.keys("").await?);
    Ok(())
}

async fn compare_and_swap(kv: &Kv) -> Result<()> {
    heading("update, remove");
    let created = kv.update("counter", Value::new("1", 0)).await?;
    println!("update at index 0      -> created, index {created}");
    let swapped = kv.update("counter", Value::new("2", created)).await?;
    println!("update at index {created:<6} -> index {swapped}");
    let stale = kv.update("counter", Value::new("3", created)).await;
    println!("the same once more     -> {}", stale.err().map_or_else(String::new, |error| error.to_string()));
    kv.remove("counter", swapped).await?;
    println!("remove at index {swapped:<6} -> deleted");
    Ok(())
}

async fn transactions(kv: &Kv) -> Result<()> {
    heading("txn");
    let anna = kv.set("account/anna", "100").await?;
    let berta = kv.set("account/berta", "100").await?;
    let transfer = || {
        let txn = kv.txn().check("account/anna", anna).check("account/berta", berta);
        txn.set("account/anna", "90").set("account/berta", "110")
    };
    println!("first transfer         -> {:?}: both at one index", transfer().commit().await?);
    match transfer().commit().await {
        Err(Error::Conflict { key }) => println!("the same once more     -> conflict on {key}, nothing applied"),
        other => println!("the same once more     -> {other:?}"),
    }
    Ok(())
}

async fn watches(kv: &Kv) -> Result<()> {
    heading("observe, watch");
    let (listing, mut watch) = kv.observe("account/").await?;
    println!("observe account/       -> {} keys, and every change from then on", listing.values.len());
    kv.set("account/clara", "50").await?;
    for change in ["one", "two"] {
        if let Some(event) = watch.next().await {
            let event = event?;
            println!("event {change}              -> {} {} at {}", event.event_type, event.key, event.index);
        }
        if change == "one" {
            kv.delete("account/clara").await?;
        }
    }
    drop(watch);
    println!("drop                   -> the watch is over");
    Ok(())
}

async fn ephemeral_keys(kv: &Kv) -> Result<()> {
    heading("ephemeral_key: set, renew, hold, destroy");
    let member = kv.ephemeral_key("members/a", ttl(kv)).await?;
    println!("ephemeral_key          -> lives for {:?} from its last renewal", member.ttl());
    member.set("10.0.0.1:80").await?;
    member.renew().await?;
    let served = member.hold(async { kv.get("members/a").await }).await??;
    println!("hold                   -> a member while it works; others read {:?}", served.data);
    member.destroy().await?;
    println!("destroy                -> {:?} are left", kv.keys("members").await?);
    Ok(())
}

async fn locks(kv: &Kv) -> Result<()> {
    heading("lock, try_lock: token, hold, held, unlock");
    let lock = kv.lock("locks/leader", ttl(kv)).await?;
    println!("lock                   -> held, fencing token {}", lock.token());
    let second = kv.try_lock("locks/leader", ttl(kv)).await?;
    println!("try_lock meanwhile     -> {second:?}");
    let term = kv.txn().held(&lock).set("term", lock.token().to_string());
    println!("txn held by the lock   -> {:?}", lock.hold(term.commit()).await??);
    // The write is prepared while the lock is held, and sent after the lock has passed on. The store refuses it.
    let late = kv.txn().held(&lock).set("term", "from the past");
    lock.unlock().await?;
    let next = kv.lock("locks/leader", ttl(kv)).await?;
    println!("unlock, lock           -> the next token is {}", next.token());
    match late.commit().await {
        Err(error) if error.is_lost() => println!("the late write         -> {error}"),
        other => println!("the late write         -> {other:?}"),
    }
    println!("close                  -> gives back what is held, at the end of the program");
    next.unlock().await
}

async fn errors(kv: &Kv) -> Result<()> {
    heading("errors");
    let missing = kv.get("nowhere").await.err();
    let invalid = kv.set("no//way", "").await.err();
    let too_large = kv.set("large", vec![0; kv.limits().value_bytes + 1]).await.err();
    let elsewhere = connect("nowhere://localhost").await.err();
    for error in [missing, invalid, too_large, elsewhere].into_iter().flatten() {
        println!("{error}");
    }
    Ok(())
}

/// A time to live that the store accepts, and short enough for a tour.
fn ttl(kv: &Kv) -> Duration {
    kv.limits().min_ttl.max(Duration::from_secs(10))
}

fn heading(text: &str) {
    println!("\n=== {text}");
}
