//! A lock guards writes to the store that it is held in, through any handle, and to no other store
//! ([clause L5](kv_core::contract::CLAUSES#L5)).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kv_core::backend::{Backend, EventStream, Grant, Snapshot, Txn};
use kv_core::{Error, Kv, Limits, Registry, Result, Value};
use kv_memory::MemoryBackend;

const TTL: Duration = Duration::from_secs(30);

async fn connect(address: &str) -> Kv {
    Registry::new().with(kv_memory::REGISTRATION).connect(address).await.expect("a store")
}

/// A store of another kind that would accept every guard as its own.
struct Gullible(MemoryBackend);

#[async_trait]
impl Backend for Gullible {
    fn name(&self) -> &'static str {
        "gullible"
    }

    fn limits(&self) -> Limits {
        self.0.limits()
    }

    async fn ping(&self) -> Result<()> {
        self.0.ping().await
    }

    async fn get(&self, key: &str) -> Result<Value> {
        self.0.get(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Snapshot> {
        self.0.list(prefix).await
    }

    async fn keys(&self, prefix: &str) -> Result<Vec<String>> {
        self.0.keys(prefix).await
    }

    async fn commit(&self, txn: Txn) -> Result<Option<u64>> {
        self.0.commit(Txn { checks: Vec::new(), ..txn }).await
    }

    async fn watch(&self, prefix: &str, after: u64) -> Result<EventStream> {
        self.0.watch(prefix, after).await
    }

    async fn observe(&self, prefix: &str) -> Result<(Snapshot, EventStream)> {
        self.0.observe(prefix).await
    }

    async fn ephemeral_key(&self, key: &str, ttl: Duration) -> Result<Grant> {
        self.0.ephemeral_key(key, ttl).await
    }

    async fn lock(&self, key: &str, ttl: Duration) -> Result<Grant> {
        self.0.lock(key, ttl).await
    }

    async fn try_lock(&self, key: &str, ttl: Duration) -> Result<Option<Grant>> {
        self.0.try_lock(key, ttl).await
    }
}

#[tokio::test]
async fn handles_on_one_store_share_their_locks() -> Result<()> {
    let (first, second) = (connect("memory://guards").await, connect("memory://guards/app").await);
    let lock = first.lock("lock", TTL).await?;
    second.txn().held(&lock).set("a", "1").commit().await?;
    first.scoped("app")?.txn().held(&lock).set("a", "2").commit().await?;
    assert_eq!(second.get("a").await?.data, "2");
    Ok(())
}

#[tokio::test]
async fn a_lock_of_another_store_of_the_same_kind_guards_nothing() -> Result<()> {
    let (one, other) = (connect("memory://guards-one").await, connect("memory://guards-other").await);
    // The same key, the same token, and held in both: nothing but the holder differs.
    let (lock, others) = (one.lock("lock", TTL).await?, other.lock("lock", TTL).await?);
    assert_eq!(lock.token(), others.token());
    let refused = other.txn().held(&lock).set("a", "1").commit().await;
    assert!(matches!(refused, Err(Error::Lost { .. } | Error::ForeignLock { .. })), "{refused:?}");
    assert!(other.get("a").await.is_err_and(|error| error.is_key_not_found()));
    other.txn().held(&others).set("a", "1").commit().await?;
    Ok(())
}

#[tokio::test]
async fn a_lock_of_another_kind_of_store_is_refused_before_anything_is_sent() -> Result<()> {
    let (memory, gullible) = (connect("memory://").await, Kv::new(Arc::new(Gullible(MemoryBackend::new()))));
    let lock = memory.lock("lock", TTL).await?;
    let refused = gullible.txn().held(&lock).set("a", "1").commit().await.expect_err("another store's lock");
    assert!(matches!(&refused, Error::ForeignLock { key, held: "memory", backend: "gullible" } if key == "lock"));
    assert!(refused.to_string().contains("store of memory"), "{refused}");
    assert!(gullible.get("a").await.is_err_and(|error| error.is_key_not_found()));
    memory.txn().held(&lock).set("a", "1").commit().await?;
    Ok(())
}
