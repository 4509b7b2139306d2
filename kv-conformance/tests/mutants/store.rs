//! The memory store with one fault.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use kv_core::backend::{Backend, EventStream, Grant, Guard, Operation, Snapshot, Txn};
use kv_core::{Error, ForeignWrite, Limits, Result, Value};
use kv_memory::MemoryBackend;

use crate::fault::Fault;
use crate::home::Sharing;
use crate::known_locks::lock;
use crate::lease::faulty_grant;
use crate::shared::Shared;
use crate::stream;

/// One client of a store with at most one fault.
pub(crate) struct Faulty {
    pub(crate) fault: Option<Fault>,
    pub(crate) shared: Arc<Shared>,
    /// The number of the client.
    pub(crate) number: u64,
    /// The last value of each key that this client has read.
    read: Mutex<HashMap<String, Value>>,
    pub(crate) sharing: Sharing,
    /// The last guard that this client had for each lock.
    pub(crate) guards: Mutex<HashMap<String, Guard>>,
}

impl Faulty {
    pub(crate) fn new(fault: Option<Fault>, shared: Arc<Shared>) -> Self {
        let number = shared.handles.fetch_add(1, Ordering::Relaxed);
        Self { fault, shared, number, read: Mutex::default(), sharing: Sharing::default(), guards: Mutex::default() }
    }

    fn note_guard(&self, grant: &Grant) {
        lock(&self.guards).insert(grant.guard.key.clone(), grant.guard.clone());
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

    /// The index of a key, or 0 if it does not exist.
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
        let limits = self.store().limits();
        match (self.fault, limits.foreign_write) {
            (Some(Fault::ForeignWriteOtherwise), ForeignWrite::Keeps) => {
                Limits { foreign_write: ForeignWrite::Detaches, ..limits }
            }
            (Some(Fault::ForeignWriteOtherwise), ForeignWrite::Detaches) => {
                Limits { foreign_write: ForeignWrite::Keeps, ..limits }
            }
            _ => limits,
        }
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
            Err(Error::NotFound { key }) if self.has(Fault::ErrorsNameAnother) => {
                return Err(Error::NotFound { key: format!("kv/{key}") });
            }
            Err(Error::NotFound { .. }) if self.has(Fault::LockReadsAsEmpty) => {
                if let Some(token) = self.shared.locks.token(key) {
                    return Ok(Value::new("", token));
                }
            }
            Ok(value) if self.has(Fault::StaleReads) => {
                // Returns what the previous read of the key saw.
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
            Some(Fault::LockIsListed) => snapshot.entries.extend(self.shared.locks.entries(prefix)),
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
            Some(Fault::LockIsAChild) => {
                let mut children: BTreeSet<_> = self.store().keys(prefix).await?.into_iter().collect();
                let entries = self.shared.locks.entries(prefix).into_iter().map(|(key, _)| key);
                children.extend(entries.map(|key| match key[prefix.len()..].find('/') {
                    Some(slash) => key[..=prefix.len() + slash].to_owned(),
                    None => key,
                }));
                Ok(children.into_iter().collect())
            }
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
                let (mut snapshot, events) = self.store().observe(prefix).await?;
                if fault == Fault::LockIsObserved {
                    snapshot.entries.extend(self.shared.locks.entries(prefix));
                }
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
        if self.has(Fault::LockBlocksCreation) && self.shared.locks.token(key).is_some() {
            return Err(Error::conflict(key, 0));
        }
        lock(&self.shared.leased).insert(key.to_owned());
        let asked = match self.fault {
            Some(Fault::ExpiresEarly) => ttl / 10,
            Some(Fault::NeverExpires | Fault::ClockTooLate) => ttl * 1000,
            _ => ttl,
        };
        let grant = self.store().ephemeral_key(key, asked).await.map_err(|error| match error {
            Error::Conflict { key, .. } if self.has(Fault::ConflictSaysChanged) => Error::conflict(key, 1),
            error => error,
        })?;
        Ok(faulty_grant(self.fault, &self.shared, Grant { ttl, ..grant }))
    }

    async fn lock(&self, key: &str, ttl: Duration) -> Result<Grant> {
        let asked = match self.fault {
            Some(Fault::ExpiresEarly) => ttl / 10,
            Some(Fault::NeverExpires | Fault::ClockTooLate) => ttl * 1000,
            _ => ttl,
        };
        let grant = match self.fault {
            Some(Fault::WaitGoesOn) => {
                let (shared, key) = (self.shared.clone(), key.to_owned());
                let (sender, receiver) = tokio::sync::oneshot::channel();
                tokio::spawn(async move {
                    // A grant whose wait was abandoned is kept.
                    if let Err(Ok(grant)) = sender.send(shared.store.lock(&key, asked).await) {
                        lock(&shared.kept).push(grant.lease);
                    }
                });
                receiver.await.unwrap_or_else(|_| Err(Error::unavailable("the wait has ended")))?
            }
            Some(Fault::AbandonedWaitsEndLate) => self.lock_with_late_end(key, asked).await?,
            Some(Fault::AbandonedWaitsHoldUpLocks) => self.lock_in_one_queue(key, asked).await?,
            _ => self.take(key, asked).await?,
        };
        self.note_guard(&grant);
        Ok(faulty_grant(self.fault, &self.shared, Grant { ttl, ..grant }))
    }

    async fn try_lock(&self, key: &str, ttl: Duration) -> Result<Option<Grant>> {
        let grant = match self.fault {
            Some(Fault::TryLockWaits) => Some(self.store().lock(key, ttl).await?),
            Some(Fault::LockGivenTwice) => match self.store().try_lock(key, ttl).await? {
                None => self.store().try_lock(&format!("{key}/second"), ttl).await?,
                given => given,
            },
            _ => self.try_to_take(key, ttl).await?,
        };
        if let Some(grant) = &grant {
            self.note_guard(grant);
        }
        Ok(grant.map(|grant| faulty_grant(self.fault, &self.shared, grant)))
    }

    async fn close(&self) -> Result<()> {
        self.close_badly().await
    }
}
