//! Locks with a fault: visible to reads, changed by writes, or given out of turn.

use std::sync::atomic::Ordering;
use std::time::Duration;

use kv_core::backend::{Backend as _, Check, Grant, Operation, Txn};
use kv_core::{Error, Result};

use crate::fault::Fault;
use crate::known_locks::{Place, lock};
use crate::store::Faulty;

impl Faulty {
    /// Takes a lock of the store below, with the fault.
    pub(crate) async fn take(&self, key: &str, ttl: Duration) -> Result<Grant> {
        let grant = match self.fault {
            Some(Fault::ValuesBlockLocks) if self.index(key).await != 0 => {
                return Err(Error::Conflict { key: key.to_owned() });
            }
            Some(Fault::DataJoinsTheQueue) => {
                while self.has_data_below(key).await {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                self.store().lock(key, ttl).await?
            }
            Some(Fault::TreeSparesLocks) => self.store().lock(&format!("apart/{key}"), ttl).await?,
            Some(Fault::WaitersEndWithTheTree) => self.wait_until_the_tree_goes(key, ttl).await?,
            Some(Fault::WaiterIsListed) => {
                let entry = format!("{key}/2f");
                self.write(Operation::Set { key: entry.clone(), data: "".into() }).await?;
                let grant = self.store().lock(key, ttl).await;
                self.write(Operation::Delete { key: entry }).await?;
                grant?
            }
            Some(Fault::LastWaiterFirst | Fault::HandleByHandle | Fault::UnlockerBarges) => {
                self.take_out_of_turn(key, ttl).await?
            }
            _ => self.store().lock(key, ttl).await?,
        };
        self.took(key, &grant).await?;
        Ok(grant)
    }

    /// Tries for a lock of the store below, with the fault.
    pub(crate) async fn try_to_take(&self, key: &str, ttl: Duration) -> Result<Option<Grant>> {
        let grant = match self.fault {
            Some(Fault::ValuesBlockLocks) if self.index(key).await != 0 => {
                return Err(Error::Conflict { key: key.to_owned() });
            }
            Some(Fault::DataJoinsTheQueue) if self.has_data_below(key).await => None,
            Some(Fault::TreeSparesLocks) => self.store().try_lock(&format!("apart/{key}"), ttl).await?,
            _ => self.store().try_lock(key, ttl).await?,
        };
        if let Some(grant) = &grant {
            self.took(key, grant).await?;
        }
        Ok(grant)
    }

    /// Faults in what a write does to locks, or locks to a write.
    pub(crate) fn touch_locks(&self, txn: &Txn) -> Result<()> {
        let locks = &self.shared.locks;
        for check in &txn.checks {
            match check {
                Check::Index { key, index: 0 } if self.has(Fault::LockBlocksCreation) && locks.token(key).is_some() => {
                    return Err(Error::Conflict { key: key.clone() });
                }
                Check::Held(guard)
                    if (self.has(Fault::WritesFreeLocks) || self.has(Fault::NeighboursTreeEndsLocks))
                        && locks.token(&guard.key) != Some(guard.token) =>
                {
                    return Err(Error::Lost { key: guard.key.clone() });
                }
                _ => {}
            }
        }
        for operation in &txn.operations {
            match operation {
                Operation::Set { key, .. } | Operation::Delete { key } if self.has(Fault::WritesFreeLocks) => {
                    lock(&locks.held).remove(key);
                }
                Operation::DeletePrefix { prefix } => {
                    lock(&locks.trees).push(prefix.clone());
                    if self.has(Fault::NeighboursTreeEndsLocks) {
                        lock(&locks.held).retain(|key, _| !key.starts_with(prefix.trim_end_matches('/')));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    async fn took(&self, key: &str, grant: &Grant) -> Result<()> {
        lock(&self.shared.locks.held).insert(key.to_owned(), grant.guard.token);
        if self.has(Fault::LockIsWatched) {
            let entry = format!("{key}/1f");
            self.write(Operation::Set { key: entry.clone(), data: "".into() }).await?;
            self.write(Operation::Delete { key: entry }).await?;
        }
        Ok(())
    }

    async fn has_data_below(&self, key: &str) -> bool {
        self.store().list(&format!("{key}/")).await.is_ok_and(|listing| !listing.entries.is_empty())
    }

    async fn wait_until_the_tree_goes(&self, key: &str, ttl: Duration) -> Result<Grant> {
        let before = lock(&self.shared.locks.trees).len();
        let grant = self.store().lock(key, ttl).await?;
        let is_gone = |tree: &String| format!("{key}/").starts_with(tree.as_str());
        if lock(&self.shared.locks.trees)[before..].iter().any(is_gone) {
            drop(grant);
            return std::future::pending().await;
        }
        Ok(grant)
    }

    /// Serves the waiters by another rank than the order in which they asked.
    async fn take_out_of_turn(&self, key: &str, ttl: Duration) -> Result<Grant> {
        let locks = &self.shared.locks;
        let arrival = locks.arrivals.fetch_add(1, Ordering::Relaxed);
        let rank = match self.fault {
            Some(Fault::LastWaiterFirst) => u64::MAX - arrival,
            Some(Fault::HandleByHandle) => (self.number << 32) + arrival,
            // Whoever is running goes before whoever has to be woken.
            _ => match self.store().try_lock(key, ttl).await? {
                Some(grant) => return Ok(grant),
                None => arrival,
            },
        };
        lock(&locks.waiting).push((key.to_owned(), rank));
        let place = Place { locks, key: key.to_owned(), rank };
        loop {
            if place.is_first()
                && let Some(grant) = self.store().try_lock(key, ttl).await?
            {
                return Ok(grant);
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn write(&self, operation: Operation) -> Result<Option<u64>> {
        self.store().commit(Txn { checks: Vec::new(), operations: vec![operation] }).await
    }
}
