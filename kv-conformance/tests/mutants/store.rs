//! The memory store behind one fault.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use kv_core::{Backend, Check, Error, EventStream, Grant, Lease, Limits, Operation, Result, Snapshot, Txn, Value};
use kv_memory::MemoryBackend;
use tokio::sync::mpsc;

use crate::fault::Fault;
use crate::lease::faulty_grant;
use crate::stream;

/// What the clients of one store share.
#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) store: MemoryBackend,
    /// The queues of the watches for which writers wait.
    pub(crate) queues: Mutex<Vec<mpsc::WeakSender<Result<kv_core::Event>>>>,
    /// Leases that nobody gives back.
    pub(crate) kept: Mutex<Vec<Box<dyn Lease>>>,
    writes: AtomicUsize,
}

/// One client of a store that is wrong in one way, if any.
pub(crate) struct Faulty {
    fault: Option<Fault>,
    shared: Arc<Shared>,
    /// What this client has read.
    read: Mutex<HashMap<String, Value>>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Faulty {
    pub(crate) fn new(fault: Option<Fault>, shared: Arc<Shared>) -> Self {
        Self { fault, shared, read: Mutex::default() }
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    fn store(&self) -> &MemoryBackend {
        &self.shared.store
    }

    fn mangled(&self, key: &str) -> String {
        if self.has(Fault::PlusBecomesSpace) { key.replace('+', " ") } else { key.to_owned() }
    }

    /// The index that a key has now, 0 if there is none.
    async fn index(&self, key: &str) -> u64 {
        self.store().get(key).await.map_or(0, |value| value.index)
    }

    /// Applies each operation by itself.
    async fn one_by_one(&self, operations: Vec<Operation>) -> Result<Option<u64>> {
        let mut last = None;
        for operation in operations {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let written = self.store().commit(Txn { checks: Vec::new(), operations: vec![operation] }).await?;
            last = written.or(last);
        }
        Ok(last)
    }

    /// Replaces deletions of a prefix by those of the keys that begin with some string.
    async fn by_keys(&self, operations: Vec<Operation>, string: impl Fn(&str) -> &str) -> Result<Vec<Operation>> {
        let mut replaced = Vec::new();
        for operation in operations {
            match operation {
                Operation::DeletePrefix { prefix } => {
                    let found = self.store().list(string(&prefix)).await?.entries;
                    replaced.extend(found.into_iter().map(|(key, _)| Operation::Delete { key }));
                }
                other => replaced.push(other),
            }
        }
        Ok(replaced)
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

    async fn commit(&self, mut txn: Txn) -> Result<Option<u64>> {
        for operation in &mut txn.operations {
            if let Operation::Set { key, data } = operation {
                *key = self.mangled(key);
                if self.has(Fault::LargeIsCut) && data.len() >= self.limits().value_bytes {
                    data.truncate(data.len() - 1);
                }
            }
        }
        if self.has(Fault::TokenRepeats) {
            crate::lease::restore_tokens(&mut txn);
        }
        let indices: Vec<(String, u64)> = txn
            .checks
            .iter()
            .filter_map(|check| match check {
                Check::Index { key, index } => Some((key.clone(), *index)),
                Check::Held(_) => None,
            })
            .collect();
        let is_single = txn.operations.len() == 1 && txn.checks.len() <= 1;
        match self.fault {
            Some(Fault::SameValueKeepsIndex) if is_single => {
                if let Operation::Set { key, data } = &txn.operations[0]
                    && let Ok(value) = self.store().get(key).await
                    && value.data == *data
                    && indices.iter().all(|(_, index)| *index == value.index)
                {
                    return Ok(Some(value.index));
                }
            }
            Some(Fault::OtherIndexReturned) => {
                return self.store().commit(txn).await.map(|index| index.map(|index| index + 1));
            }
            Some(Fault::SwapIsNotAtomic) => {
                for (key, index) in indices {
                    if self.index(&key).await != index {
                        return Err(Error::Conflict { key });
                    }
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
                txn.checks.retain(|check| matches!(check, Check::Held(_)));
            }
            Some(Fault::UpdateCreates) if is_single && matches!(txn.operations[0], Operation::Set { .. }) => {
                for (key, _) in indices {
                    if self.index(&key).await == 0 {
                        txn.checks.clear();
                    }
                }
            }
            Some(Fault::ConflictChanges) => {
                let result = self.store().commit(txn.clone()).await;
                if result.as_ref().is_err_and(Error::is_conflict) {
                    self.one_by_one(txn.operations).await?;
                }
                return result;
            }
            Some(Fault::RemovalOfNothing) if is_single => {
                if let (Operation::Delete { key }, [_]) = (&txn.operations[0], &indices[..])
                    && self.index(key).await == 0
                {
                    return Ok(None);
                }
            }
            Some(Fault::SiblingsDeleted) => {
                txn.operations = self.by_keys(txn.operations, |prefix| prefix.trim_end_matches('/')).await?;
                txn.operations.dedup();
            }
            Some(Fault::TreeInPieces)
                if txn.checks.is_empty()
                    && txn.operations.iter().any(|operation| matches!(operation, Operation::DeletePrefix { .. })) =>
            {
                let operations = self.by_keys(txn.operations, |prefix| prefix).await?;
                return self.one_by_one(operations).await;
            }
            Some(Fault::TransactionInPieces) if txn.operations.len() > 1 => {
                let operations = std::mem::take(&mut txn.operations);
                if !txn.checks.is_empty() {
                    self.store().commit(txn).await?;
                }
                return self.one_by_one(operations).await;
            }
            Some(Fault::ChecksIgnored) if txn.operations.len() > 1 => {
                txn.checks.retain(|check| matches!(check, Check::Held(_)));
            }
            Some(Fault::ConflictNamesAnother) => {
                let first = indices.into_iter().next().map(|(key, _)| key);
                return self.store().commit(txn).await.map_err(|error| match (error, first) {
                    (Error::Conflict { .. }, Some(key)) => Error::Conflict { key },
                    (error, _) => error,
                });
            }
            Some(Fault::AppliedButUnavailable) => {
                let result = self.store().commit(txn).await;
                let unlucky = self.shared.writes.fetch_add(1, Ordering::Relaxed) % 5 == 4;
                return if unlucky && result.is_ok() { Err(Error::unavailable("no answer")) } else { result };
            }
            Some(Fault::WritersWaitForReaders) => {
                while lock(&self.shared.queues)
                    .iter()
                    .filter_map(mpsc::WeakSender::upgrade)
                    .any(|one| one.capacity() == 0)
                {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            Some(Fault::GuardNotChecked) => {
                txn.checks.retain(|check| matches!(check, Check::Index { .. }));
                if txn.is_empty() {
                    return Ok(None);
                }
            }
            Some(Fault::ConflictIsUnavailable) => {
                return self.store().commit(txn).await.map_err(|error| match error {
                    Error::Conflict { .. } => Error::unavailable("not now"),
                    other => other,
                });
            }
            _ => {}
        }
        self.store().commit(txn).await
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
