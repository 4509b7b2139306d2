//! Callers that use a [`Kv`], one for each kind of call.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kv_core::{Kv, Result, Value, Watch};

use super::{Answer, Caller, Keys, OwnKeys};

/// Reads one key.
pub struct Get {
    kv: Kv,
    keys: OwnKeys,
}

impl Get {
    /// Creates a caller that reads these keys.
    pub fn new(kv: &Kv, keys: OwnKeys) -> Self {
        Self { kv: kv.clone(), keys }
    }
}

impl Caller for Get {
    async fn call(&mut self) -> Answer {
        std::hint::black_box(self.kv.get(self.keys.next_key()).await?);
        Ok(None)
    }
}

/// Writes one key.
pub struct Set {
    kv: Kv,
    keys: OwnKeys,
    value: Bytes,
}

impl Set {
    /// Creates a caller that writes these keys.
    pub fn new(kv: &Kv, keys: OwnKeys, value: &Bytes) -> Self {
        Self { kv: kv.clone(), keys, value: value.clone() }
    }
}

impl Caller for Set {
    async fn call(&mut self) -> Answer {
        self.kv.set(self.keys.next_key(), self.value.clone()).await?;
        Ok(None)
    }
}

/// Writes one key if it still has the index of its last write.
pub struct Update {
    kv: Kv,
    keys: OwnKeys,
    value: Bytes,
    /// The index of each key, by the position of the key.
    indices: Vec<u64>,
}

impl Update {
    /// Creates a caller that writes these keys, which no other caller may write. `indices` are the present indices of
    /// all keys.
    pub fn new(kv: &Kv, keys: OwnKeys, value: &Bytes, indices: &[u64]) -> Self {
        Self { kv: kv.clone(), keys, value: value.clone(), indices: indices.to_vec() }
    }

    /// Returns the present indices of all keys, in order; 0 for keys that do not exist.
    ///
    /// # Errors
    /// The errors of [`Kv::get_all`].
    pub async fn indices(kv: &Kv, keys: &Keys) -> Result<Vec<u64>> {
        let values = kv.get_all(keys.prefix()).await?.values;
        Ok(keys.all().iter().map(|key| values.get(key).map_or(0, |value| value.index)).collect())
    }
}

impl Caller for Update {
    async fn call(&mut self) -> Answer {
        let at = self.keys.next_position();
        let value = Value { data: self.value.clone(), index: self.indices[at] };
        match self.kv.update(self.keys.key_at(at), value).await {
            Ok(index) => self.indices[at] = index,
            Err(error) => {
                // The fate of the write may be unknown.
                self.indices[at] =
                    self.kv.get(self.keys.key_at(at)).await.map_or(self.indices[at], |value| value.index);
                return Err(error.into());
            }
        }
        Ok(None)
    }
}

/// Writes three keys in one transaction.
pub struct Transaction {
    kv: Kv,
    keys: OwnKeys,
    value: Bytes,
}

impl Transaction {
    /// Creates a caller that writes these keys, of which it needs three.
    pub fn new(kv: &Kv, keys: OwnKeys, value: &Bytes) -> Self {
        Self { kv: kv.clone(), keys, value: value.clone() }
    }
}

impl Caller for Transaction {
    async fn call(&mut self) -> Answer {
        let mut txn = self.kv.txn();
        for _ in 0..3 {
            txn = txn.set(self.keys.next_key(), self.value.clone());
        }
        txn.commit().await?;
        Ok(None)
    }
}

/// Reads all keys at once.
pub struct List {
    kv: Kv,
    prefix: &'static str,
}

impl List {
    /// Creates a caller that reads all these keys.
    pub fn new(kv: &Kv, keys: &Keys) -> Self {
        Self { kv: kv.clone(), prefix: keys.prefix() }
    }
}

impl Caller for List {
    async fn call(&mut self) -> Answer {
        std::hint::black_box(self.kv.get_all(self.prefix).await?);
        Ok(None)
    }
}

/// Writes a key and awaits its event. The measured time is from before the write until the event has arrived.
pub struct Notice {
    kv: Kv,
    key: String,
    value: Bytes,
    watch: Watch,
}

impl Notice {
    /// Creates a caller that writes and watches a key of its own.
    ///
    /// # Errors
    /// The errors of [`Kv::watch`].
    pub async fn new(kv: &Kv, caller: usize, value: &Bytes) -> Result<Self> {
        let key = format!("watched/{caller:08}");
        let watch = kv.watch(&key, 0).await?;
        Ok(Self { kv: kv.clone(), key, value: value.clone(), watch })
    }
}

impl Caller for Notice {
    async fn call(&mut self) -> Answer {
        let began = Instant::now();
        let noticed = async {
            let event = self.watch.next().await;
            (event, began.elapsed())
        };
        let (written, (event, latency)) = futures_util::join!(self.kv.set(&self.key, self.value.clone()), noticed);
        if !matches!(event, Some(Ok(_))) {
            // A watch ends when it cannot continue. The next call opens another one.
            self.watch = self.kv.watch(&self.key, 0).await?;
        }
        written?;
        event.ok_or("the watch has ended")??;
        Ok(Some(latency))
    }
}

/// Takes a lock and frees it. The measured time is from when the previous holder began to free it until it is taken.
pub struct HandOver {
    kv: Kv,
    /// When the previous holder began to free it.
    freed: Arc<Mutex<Option<Instant>>>,
}

impl HandOver {
    /// The time to live of the lock, after which the lock of a caller that is gone is free.
    const TTL: Duration = Duration::from_secs(30);
    const KEY: &'static str = "locked";

    /// Creates a caller. The callers that share `freed` take the same lock in turn.
    pub fn new(kv: &Kv, freed: &Arc<Mutex<Option<Instant>>>) -> Self {
        Self { kv: kv.clone(), freed: Arc::clone(freed) }
    }
}

impl Caller for HandOver {
    async fn call(&mut self) -> Answer {
        let lock = self.kv.lock(Self::KEY, Self::TTL).await?;
        let latency = {
            let now = Instant::now();
            let mut freed = self.freed.lock().unwrap_or_else(PoisonError::into_inner);
            freed.replace(now).map(|freed| now - freed)
        };
        lock.unlock().await?;
        Ok(latency)
    }
}
