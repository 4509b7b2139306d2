//! The memory store behind one fault.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use kv_core::{Backend, Error, EventStream, Grant, Lease, Limits, Operation, Result, Snapshot, Txn, Value};
use kv_memory::MemoryBackend;
use tokio::sync::mpsc;

use crate::fault::Fault;
use crate::lease::faulty_grant;
use crate::sharing::Sharing;
use crate::stream;

/// What the clients of one store share.
#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) store: MemoryBackend,
    /// The queues of the watches for which writers wait.
    pub(crate) queues: Mutex<Vec<mpsc::WeakSender<Result<kv_core::Event>>>>,
    /// Leases that nobody gives back.
    pub(crate) kept: Mutex<Vec<Box<dyn Lease>>>,
    pub(crate) writes: AtomicUsize,
}

/// One client of a store that is wrong in one way, if any.
pub(crate) struct Faulty {
    pub(crate) fault: Option<Fault>,
    pub(crate) shared: Arc<Shared>,
    /// What this client has read.
    read: Mutex<HashMap<String, Value>>,
    pub(crate) sharing: Sharing,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Faulty {
    pub(crate) fn new(fault: Option<Fault>, shared: Arc<Shared>) -> Self {
        Self { fault, shared, read: Mutex::default(), sharing: Sharing::default() }
    }

    pub(crate) fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    pub(crate) fn store(&self) -> &MemoryBackend {
        &self.shared.store
    }

    pub(crate) fn mangled(&self, key: &str) -> String {
        if self.has(Fault::PlusBecomesSpace) { key.replace('+', " ") } else { key.to_owned() }
    }

    /// The index that a key has now, 0 if there is none.
    pub(crate) async fn index(&self, key: &str) -> u64 {
        self.store().get(key).await.map_or(0, |value| value.index)
    }
}

#[async_trait]
impl Backend for Faulty {
    fn name(&self) -> &'static str {
        "faulty"
    }

    fn limits(&self) -> Limits {
        self.store().limits()
    }

    async fn ping(&self) -> Result<()> {
        self.store().ping().await
    }

    async fn get(&self, key: &str) -> Result<Value> {
        self.may_be_dropped().await;
        let result = self.store().get(&self.mangled(key)).await;
        match &result {
            Ok(value) if self.has(Fault::EmptyIsAbsent) && value.data.is_empty() => {
                return Err(Error::NotFound { key: key.to_owned() });
            }
            Ok(value) if self.has(Fault::StaleReads) => {
                // Once for each change, what was read before.
                if let Some(before) = lock(&self.read).insert(key.to_owned(), value.clone()) {
                    return Ok(before);
                }
            }
            _ => {}
        }
        result
    }

    async fn list(&self, prefix: &str) -> Result<Snapshot> {
        self.may_be_dropped().await;
        let mut snapshot = self.store().list(prefix).await?;
        match self.fault {
            Some(Fault::PrefixIsDirectory) if !prefix.ends_with('/') => {
                snapshot.entries.retain(|(key, _)| {
                    key.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                });
            }
            Some(Fault::RootIsPrefix) => snapshot = self.store().list(prefix.trim_end_matches('/')).await?,
            Some(Fault::TornListings) => {
                let half = snapshot.entries.len() / 2;
                tokio::time::sleep(Duration::from_millis(1)).await;
                let second = self.store().list(prefix).await?;
                snapshot.entries.truncate(half);
                snapshot.entries.extend(second.entries.into_iter().skip(half));
            }
            Some(Fault::ListingIndexAhead) => snapshot.index += 1000,
            _ => {}
        }
        Ok(snapshot)
    }

    async fn keys(&self, prefix: &str) -> Result<Vec<String>> {
        let all = self.store().list(prefix).await?.entries.into_iter().map(|(key, _)| key);
        match self.fault {
            Some(Fault::ChildrenRepeated) => Ok(all
                .map(|key| match key[prefix.len()..].find('/') {
                    Some(slash) => key[..=prefix.len() + slash].to_owned(),
                    None => key,
                })
                .collect()),
            Some(Fault::GrandchildrenListed) => Ok(all.collect()),
            _ => self.store().keys(prefix).await,
        }
    }

    async fn commit(&self, txn: Txn) -> Result<Option<u64>> {
        self.commit_with_fault(txn).await
    }

    async fn watch(&self, prefix: &str, after: u64) -> Result<EventStream> {
        match self.fault {
            Some(Fault::StartsLate) => Ok(stream::starts_late(self.store().clone(), prefix.to_owned(), after)),
            Some(Fault::GapAfterReconnect) => {
                let events = self.store().watch(prefix, after).await?;
                Ok(stream::reconnecting(self.store().clone(), prefix.to_owned(), events))
            }
            Some(Fault::WritersWaitForReaders) => {
                let (sender, events) = stream::queued(self.store().watch(prefix, after).await?);
                lock(&self.shared.queues).push(sender);
                Ok(events)
            }
            Some(Fault::WatchesLiveAtHome) => Ok(self.pass_on(self.store().watch(prefix, after).await?)),
            Some(fault) => Ok(stream::faulty(fault, self.store().watch(prefix, after).await?)),
            None => self.store().watch(prefix, after).await,
        }
    }

    async fn observe(&self, prefix: &str) -> Result<(Snapshot, EventStream)> {
        match self.fault {
            Some(Fault::ObserveHasGap) => {
                let snapshot = self.store().list(prefix).await?;
                tokio::time::sleep(Duration::from_millis(2)).await;
                Ok((snapshot, self.store().watch(prefix, 0).await?))
            }
            Some(Fault::ObserveOverlaps) => {
                let events = self.store().watch(prefix, 0).await?;
                tokio::time::sleep(Duration::from_millis(2)).await;
                Ok((self.store().list(prefix).await?, events))
            }
            Some(fault) => {
                let (snapshot, events) = self.store().observe(prefix).await?;
                Ok((snapshot, stream::faulty(fault, events)))
            }
            None => self.store().observe(prefix).await,
        }
    }

    async fn ephemeral_key(&self, key: &str, ttl: Duration) -> Result<Grant> {
        if self.has(Fault::EphemeralOverwrites) && self.index(key).await != 0 {
            let operations = vec![Operation::Delete { key: key.to_owned() }];
            self.store().commit(Txn { checks: Vec::new(), operations }).await?;
        }
        let asked = match self.fault {
            Some(Fault::ExpiresEarly) => ttl / 10,
            Some(Fault::NeverExpires | Fault::ClockTooLate) => ttl * 1000,
            _ => ttl,
        };
        let grant = self.store().ephemeral_key(key, asked).await?;
        Ok(faulty_grant(self.fault, &self.shared, Grant { ttl, ..grant }))
    }

    async fn lock(&self, key: &str, ttl: Duration) -> Result<Grant> {
        let asked = match self.fault {
            Some(Fault::ExpiresEarly) => ttl / 10,
            Some(Fault::NeverExpires | Fault::ClockTooLate) => ttl * 1000,
            _ => ttl,
        };
        let grant = match self.fault {
            Some(Fault::LocksValues) => self.store().lock(&format!("{key}/.lock"), asked).await?,
            Some(Fault::WaitGoesOn) => {
                let (shared, key) = (self.shared.clone(), key.to_owned());
                let (sender, receiver) = tokio::sync::oneshot::channel();
                tokio::spawn(async move {
                    // A grant for which nobody waits any more is kept all the same.
                    if let Err(Ok(grant)) = sender.send(shared.store.lock(&key, asked).await) {
                        lock(&shared.kept).push(grant.lease);
                    }
                });
                receiver.await.unwrap_or_else(|_| Err(Error::unavailable("the wait has ended")))?
            }
            Some(Fault::AbandonedWaitsHoldUpLocks) => self.lock_in_one_queue(key, asked).await?,
            _ => self.store().lock(key, asked).await?,
        };
        Ok(faulty_grant(self.fault, &self.shared, Grant { ttl, ..grant }))
    }

    async fn try_lock(&self, key: &str, ttl: Duration) -> Result<Option<Grant>> {
        let grant = match self.fault {
            Some(Fault::TryLockWaits) => Some(self.store().lock(key, ttl).await?),
            Some(Fault::LocksValues) => self.store().try_lock(&format!("{key}/.lock"), ttl).await?,
            Some(Fault::LockGivenTwice) => match self.store().try_lock(key, ttl).await? {
                None => self.store().try_lock(&format!("{key}/second"), ttl).await?,
                given => given,
            },
            _ => self.store().try_lock(key, ttl).await?,
        };
        Ok(grant.map(|grant| faulty_grant(self.fault, &self.shared, grant)))
    }
}
