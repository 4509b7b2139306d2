//! Transactions with a fault.

use std::sync::atomic::Ordering;
use std::time::Duration;

use kv_core::backend::{Backend as _, Check, Operation, Txn};
use kv_core::{Error, Result};
use tokio::sync::mpsc;

use crate::fault::Fault;
use crate::known_locks::lock;
use crate::lease::restore_tokens;
use crate::store::Faulty;

type Committed = Result<Option<u64>>;

impl Faulty {
    pub(crate) async fn commit_with_fault(&self, mut txn: Txn) -> Committed {
        let Some(fault) = self.fault else { return self.store().commit(txn).await };
        self.change_writes(&mut txn);
        self.touch_locks(&txn)?;
        match fault {
            Fault::ForeignWriteRefused => {
                let leased = lock(&self.shared.leased).clone();
                match txn
                    .operations
                    .iter()
                    .find(|one| matches!(one, Operation::Set { key, .. } if leased.contains(key)))
                {
                    Some(Operation::Set { key, .. }) => Err(Error::Conflict { key: key.clone() }),
                    _ => self.store().commit(txn).await,
                }
            }
            Fault::SameValueKeepsIndex => self.unless_the_same(txn).await,
            Fault::OtherIndexReturned => self.store().commit(txn).await.map(|index| index.map(|index| index + 1)),
            Fault::SwapIsNotAtomic => self.check_then_write(txn).await,
            Fault::UpdateCreates | Fault::RemovalOfNothing => self.with_absent_keys(txn, fault).await,
            Fault::ConflictChanges => {
                let result = self.store().commit(txn.clone()).await;
                if result.as_ref().is_err_and(Error::is_conflict) {
                    self.one_by_one(txn.operations).await?;
                }
                result
            }
            Fault::SiblingsDeleted => {
                txn.operations = self.by_keys(txn.operations, |prefix| prefix.trim_end_matches('/')).await?;
                txn.operations.dedup();
                self.store().commit(txn).await
            }
            Fault::TreeInPieces if txn.checks.is_empty() && deletes_a_tree(&txn) => {
                let operations = self.by_keys(txn.operations, |prefix| prefix).await?;
                self.one_by_one(operations).await
            }
            Fault::TransactionInPieces if txn.operations.len() > 1 => {
                let operations = std::mem::take(&mut txn.operations);
                if !txn.checks.is_empty() {
                    self.store().commit(txn).await?;
                }
                self.one_by_one(operations).await
            }
            Fault::AppliedButUnavailable => {
                let result = self.store().commit(txn).await;
                let unlucky = self.shared.writes.fetch_add(1, Ordering::Relaxed) % 5 == 4;
                if unlucky && result.is_ok() { Err(Error::unavailable("no answer")) } else { result }
            }
            Fault::CallsLiveAtHome => self.write_at_home(txn).await,
            Fault::CancelledCallsFailOthers | Fault::RefusalsFailOthers => self.pay_for_others(txn).await,
            Fault::WritersWaitForReaders => {
                while lock(&self.shared.queues)
                    .iter()
                    .filter_map(mpsc::WeakSender::upgrade)
                    .any(|one| one.capacity() == 0)
                {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                self.store().commit(txn).await
            }
            Fault::ConflictNamesAnother | Fault::ConflictIsUnavailable => {
                let first = indices(&txn).into_iter().next().map(|(key, _)| key);
                self.store().commit(txn).await.map_err(|error| match (error, first) {
                    (Error::Conflict { .. }, _) if fault == Fault::ConflictIsUnavailable => {
                        Error::unavailable("not now")
                    }
                    (Error::Conflict { .. }, Some(key)) => Error::Conflict { key },
                    (error, _) => error,
                })
            }
            _ if txn.is_empty() => Ok(None),
            _ => self.store().commit(txn).await,
        }
    }

    /// Faults in the request to the store, whatever its result.
    fn change_writes(&self, txn: &mut Txn) {
        for operation in &mut txn.operations {
            if let Operation::Set { key, data } = operation {
                *key = self.mangled(key);
                if self.has(Fault::LargeIsCut) && data.len() >= self.store().limits().value_bytes {
                    data.truncate(data.len() - 1);
                }
            }
        }
        match self.fault {
            Some(Fault::TokenRepeats) => restore_tokens(txn),
            Some(Fault::GuardNotChecked) => txn.checks.retain(|check| matches!(check, Check::Index { .. })),
            Some(Fault::ChecksIgnored) if txn.operations.len() > 1 => {
                txn.checks.retain(|check| matches!(check, Check::Held(_)));
            }
            _ => {}
        }
    }

    /// Writes no value over the same one.
    async fn unless_the_same(&self, txn: Txn) -> Committed {
        if let [Operation::Set { key, data }] = &txn.operations[..]
            && let Ok(value) = self.store().get(key).await
            && value.data == *data
            && indices(&txn).iter().all(|(_, index)| *index == value.index)
        {
            return Ok(Some(value.index));
        }
        self.store().commit(txn).await
    }

    /// Leaves time between the comparison and the write.
    async fn check_then_write(&self, mut txn: Txn) -> Committed {
        for (key, index) in indices(&txn) {
            if self.index(&key).await != index {
                return Err(Error::Conflict { key });
            }
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        txn.checks.retain(|check| matches!(check, Check::Held(_)));
        if txn.is_empty() { Ok(None) } else { self.store().commit(txn).await }
    }

    /// Treats a key that does not exist as if it had the right index.
    async fn with_absent_keys(&self, mut txn: Txn, fault: Fault) -> Committed {
        if let ([(key, _)], [operation]) = (&indices(&txn)[..], &txn.operations[..])
            && matches!(operation, Operation::Set { .. }) == (fault == Fault::UpdateCreates)
            && self.index(key).await == 0
        {
            txn.checks.clear();
        }
        self.store().commit(txn).await
    }

    /// Applies each operation in a transaction of its own.
    async fn one_by_one(&self, operations: Vec<Operation>) -> Committed {
        let mut last = None;
        for operation in operations {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let written = self.store().commit(Txn { checks: Vec::new(), operations: vec![operation] }).await?;
            last = written.or(last);
        }
        Ok(last)
    }

    /// Replaces deletions of a prefix by deletions of the keys that begin with some string.
    async fn by_keys(
        &self,
        operations: Vec<Operation>,
        string: impl Fn(&str) -> &str + Send,
    ) -> Result<Vec<Operation>> {
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

/// The checked keys, with their indices.
fn indices(txn: &Txn) -> Vec<(String, u64)> {
    let index = |check: &Check| match check {
        Check::Index { key, index } => Some((key.clone(), *index)),
        Check::Held(_) => None,
    };
    txn.checks.iter().filter_map(index).collect()
}

fn deletes_a_tree(txn: &Txn) -> bool {
    txn.operations.iter().any(|operation| matches!(operation, Operation::DeletePrefix { .. }))
}
