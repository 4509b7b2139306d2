//! A store whose leases follow a script.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kv_core::backend::{Backend, EventStream, Grant, Guard, Lease, Snapshot, Txn};
use kv_core::clock::Moment;
use kv_core::{Error, ExpiryLag, Kv, Limits, Result, Value};
use kv_memory::MemoryBackend;
use tokio::time::sleep;

/// How long each call of a lease takes and how it ends. After the last one, calls succeed at once.
type Script = Arc<Mutex<VecDeque<(Duration, Result<()>)>>>;
/// Which calls reached the store.
pub(crate) type Calls = Arc<Mutex<Vec<&'static str>>>;

/// A store whose leases follow a script.
struct Scripted {
    memory: MemoryBackend,
    script: Script,
    calls: Calls,
}

struct ScriptedLease {
    script: Script,
    calls: Calls,
}

impl ScriptedLease {
    async fn act(&self, call: &'static str) -> Result<()> {
        self.calls.lock().expect("not poisoned").push(call);
        let next = self.script.lock().expect("not poisoned").pop_front();
        match next {
            Some((delay, result)) => {
                sleep(delay).await;
                result
            }
            None => Ok(()),
        }
    }
}

#[async_trait]
impl Lease for ScriptedLease {
    async fn renew(&self) -> Result<()> {
        self.act("renew").await
    }

    async fn set(&self, _data: Bytes) -> Result<u64> {
        self.act("set").await.map(|()| 1)
    }

    async fn release(&self) -> Result<()> {
        self.act("release").await
    }
}

#[async_trait]
impl Backend for Scripted {
    fn name(&self) -> &'static str {
        "scripted"
    }

    fn limits(&self) -> Limits {
        let expiry_lag = ExpiryLag { fixed: Duration::from_secs(1), ttls: 1 };
        Limits {
            ttl_step: Duration::from_secs(10),
            min_ttl: Duration::from_secs(2),
            expiry_lag,
            ..self.memory.limits()
        }
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }

    async fn get(&self, key: &str) -> Result<Value> {
        self.memory.get(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Snapshot> {
        self.memory.list(prefix).await
    }

    async fn keys(&self, prefix: &str) -> Result<Vec<String>> {
        self.memory.keys(prefix).await
    }

    async fn commit(&self, txn: Txn) -> Result<Option<u64>> {
        self.memory.commit(txn).await
    }

    async fn watch(&self, prefix: &str, after: u64) -> Result<EventStream> {
        self.memory.watch(prefix, after).await
    }

    async fn observe(&self, prefix: &str) -> Result<(Snapshot, EventStream)> {
        self.memory.observe(prefix).await
    }

    async fn ephemeral_key(&self, key: &str, ttl: Duration) -> Result<Grant> {
        let lease = Box::new(ScriptedLease { script: self.script.clone(), calls: self.calls.clone() });
        let guard = Guard { key: key.to_owned(), owner: String::new(), token: 7 };
        Ok(Grant { lease, ttl, since: Moment::now(), guard })
    }

    async fn lock(&self, key: &str, ttl: Duration) -> Result<Grant> {
        self.ephemeral_key(key, ttl).await
    }

    async fn try_lock(&self, key: &str, ttl: Duration) -> Result<Option<Grant>> {
        self.ephemeral_key(key, ttl).await.map(Some)
    }
}

/// A handle on a store with a script, and the calls that reach it.
pub(crate) fn scripted(script: impl IntoIterator<Item = (u64, Result<()>)>) -> (Kv, Calls) {
    let script = script.into_iter().map(|(seconds, result)| (Duration::from_secs(seconds), result)).collect();
    let calls = Calls::default();
    let backend = Scripted { memory: MemoryBackend::new(), script: Arc::new(Mutex::new(script)), calls: calls.clone() };
    (Kv::new(Arc::new(backend)).scoped("root").expect("a directory"), calls)
}

pub(crate) fn made(calls: &Calls) -> Vec<&'static str> {
    calls.lock().expect("not poisoned").clone()
}

pub(crate) fn lost() -> Result<()> {
    Err(Error::Lost { key: "root/key".to_owned() })
}

pub(crate) fn down() -> Result<()> {
    Err(Error::unavailable("down"))
}

/// Lets spawned tasks run until only the clock can wake them.
pub(crate) async fn settle() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}
