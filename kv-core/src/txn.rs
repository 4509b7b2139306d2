//! The builder of transactions that users hold.

use bytes::Bytes;

use crate::backend::{Check, Operation, Txn};
use crate::caller::Caller;
use crate::{Error, Lock, Result};

/// Builds a transaction, from [`Kv::txn`](crate::Kv::txn): add its checks and operations, then
/// [`commit`](Self::commit).
///
/// Nothing is sent before `commit`, which also returns the error of an invalid key or of a value that is too large.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> kv_core::Result<()> {
/// # let kv = kv_core::Registry::new().with(kv_memory::REGISTRATION).connect("memory://").await?;
/// # kv.set("account/anna", "100").await?;
/// # kv.set("account/berta", "100").await?;
/// let from = kv.get("account/anna").await?;
/// let to = kv.get("account/berta").await?;
/// kv.txn()
///     .check("account/anna", from.index)
///     .check("account/berta", to.index)
///     .set("account/anna", "90")
///     .set("account/berta", "110")
///     .commit()
///     .await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "a transaction does nothing until it is committed"]
pub struct TxnBuilder {
    caller: Caller,
    /// What has been added so far, or the first error.
    txn: Result<Txn>,
}

impl TxnBuilder {
    pub(crate) fn new(caller: Caller) -> Self {
        Self { caller, txn: Ok(Txn::default()) }
    }

    /// Requires that `key` has this index, as a read or a write returned it; 0 requires that it does not exist.
    pub fn check(self, key: &str, index: u64) -> Self {
        self.add(|caller, txn| {
            txn.checks.push(Check::Index { key: caller.complete_key(key)?, index });
            Ok(())
        })
    }

    /// Requires that the lock is still held: the store itself refuses the writes once it has passed on
    /// ([clause L5](crate::contract::CLAUSES#L5)).
    ///
    /// The lock may come from any handle on the same store. One of another store guards nothing: the commit is
    /// [`Error::ForeignLock`] or [`Error::Lost`], and nothing is written.
    pub fn held(self, lock: &Lock) -> Self {
        self.add(|kv, txn| {
            txn.checks.push(Check::Held(lock.guard(kv)?));
            Ok(())
        })
    }

    /// Sets `key`, whether or not it exists.
    pub fn set(self, key: &str, data: impl Into<Bytes>) -> Self {
        let data = data.into();
        self.add(|caller, txn| {
            let complete = caller.complete_key(key)?;
            caller.check_value(key, &data)?;
            txn.operations.push(Operation::Set { key: complete, data });
            Ok(())
        })
    }

    /// Deletes `key`; one that does not exist is no error.
    pub fn delete(self, key: &str) -> Self {
        self.add(|caller, txn| {
            txn.operations.push(Operation::Delete { key: caller.complete_key(key)? });
            Ok(())
        })
    }

    /// Deletes the key `directory` and everything below it; `""` deletes everything under the root
    /// ([clause W4](crate::contract::CLAUSES#W4)).
    pub fn delete_tree(self, directory: &str) -> Self {
        self.add(|caller, txn| {
            let prefix = caller.complete_directory(directory)?;
            if !directory.is_empty() {
                txn.operations.push(Operation::Delete { key: prefix[..prefix.len() - 1].to_owned() });
            }
            txn.operations.push(Operation::DeletePrefix { prefix });
            Ok(())
        })
    }

    /// Applies every operation at one index if every check holds, or nothing.
    ///
    /// Returns the index of the values that it set, or `None` if it set none.
    ///
    /// Dropping the future leaves the fate of the transaction unknown, as [`Error::Indeterminate`] does.
    ///
    /// # Errors
    /// [`Error::Conflict`] with the key of a check that failed, [`Error::Lost`] when a lock is no longer held,
    /// [`Error::TxnTooLarge`] over [`Limits::txn_ops`](crate::Limits::txn_ops) or
    /// [`Limits::txn_bytes`](crate::Limits::txn_bytes), [`Error::OverlappingWrites`] when two operations write the
    /// same key, [`Error::InvalidKey`], [`Error::ValueTooLarge`]; in all of these nothing was applied. Also the
    /// errors of every write: see [`Kv::set`](crate::Kv::set).
    pub async fn commit(self) -> Result<Option<u64>> {
        self.commit_as("txn", "").await
    }

    /// Commits under the name of the verb of [`Kv`](crate::Kv) that is implemented as this transaction.
    pub(crate) async fn commit_as(self, verb: &'static str, key: &str) -> Result<Option<u64>> {
        let txn = self.txn?;
        let limits = self.caller.limits();
        let (operations, bytes) = (txn.len(), txn.bytes());
        if operations > limits.txn_ops || bytes > limits.txn_bytes {
            let (max_operations, max_bytes) = (limits.txn_ops, limits.txn_bytes);
            return Err(Error::TxnTooLarge { operations, bytes, max_operations, max_bytes });
        }
        if let Some(key) = txn.overlap() {
            return Err(Error::OverlappingWrites { key: key[self.caller.root.len()..].to_owned() });
        }
        if txn.is_empty() {
            return Ok(None);
        }
        self.caller.commit(verb, key, txn).await
    }

    fn add(mut self, change: impl FnOnce(&Caller, &mut Txn) -> Result<()>) -> Self {
        if let Ok(txn) = &mut self.txn
            && let Err(error) = change(&self.caller, txn)
        {
            self.txn = Err(error);
        }
        self
    }
}

impl std::fmt::Debug for TxnBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TxnBuilder").field("txn", &self.txn).finish_non_exhaustive()
    }
}
