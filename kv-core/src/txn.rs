//! The builder of transactions that users hold.

use bytes::Bytes;

use crate::backend::{Check, Operation, Txn};
use crate::{Error, Kv, Lock, Result};

/// A transaction in the making, from [`Kv::txn`]: name its checks and operations, then [`commit`](Self::commit).
///
/// Nothing is sent before `commit`. A bad key or a value that is too large is remembered, and `commit` returns it.
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
#[derive(Debug)]
#[must_use = "a transaction does nothing until it is committed"]
pub struct TxnBuilder {
    kv: Kv,
    /// What has been named so far, or the first thing that was wrong with it.
    txn: Result<Txn>,
}

impl TxnBuilder {
    pub(crate) fn new(kv: Kv) -> Self {
        Self { kv, txn: Ok(Txn::default()) }
    }

    /// Requires that `key` has `index`, as a read or a write told it; 0: that it does not exist.
    pub fn check(self, key: &str, index: u64) -> Self {
        self.add(|kv, txn| {
            txn.checks.push(Check::Index { key: kv.complete_key(key)?, index });
            Ok(())
        })
    }

    /// Requires that the lock is still held: the store itself refuses the writes once it has passed on (clause L5).
    pub fn held(self, lock: &Lock) -> Self {
        self.add(|_, txn| {
            txn.checks.push(Check::Held(lock.guard()?));
            Ok(())
        })
    }

    /// Sets `key`, whether or not it exists.
    pub fn set(self, key: &str, data: impl Into<Bytes>) -> Self {
        let data = data.into();
        self.add(|kv, txn| {
            let complete = kv.complete_key(key)?;
            kv.check_value(key, &data)?;
            txn.operations.push(Operation::Set { key: complete, data });
            Ok(())
        })
    }

    /// Deletes `key`; one that does not exist is no error.
    pub fn delete(self, key: &str) -> Self {
        self.add(|kv, txn| {
            txn.operations.push(Operation::Delete { key: kv.complete_key(key)? });
            Ok(())
        })
    }

    /// Deletes the key `directory` and everything below it; `""` deletes everything under the root (clause W4).
    pub fn delete_tree(self, directory: &str) -> Self {
        self.add(|kv, txn| {
            let prefix = kv.complete_directory(directory)?;
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
    /// same key, [`Error::InvalidKey`], [`Error::ValueTooLarge`]; in all of these nothing was applied. Further the
    /// errors of every write: see [`Kv::set`].
    pub async fn commit(self) -> Result<Option<u64>> {
        self.commit_as("txn", "").await
    }

    /// Commits under the name of the verb of [`Kv`] that is made of it.
    pub(crate) async fn commit_as(self, verb: &'static str, key: &str) -> Result<Option<u64>> {
        let txn = self.txn?;
        let limits = self.kv.limits();
        let (operations, bytes) = (txn.len(), txn.bytes());
        if operations > limits.txn_ops || bytes > limits.txn_bytes {
            let (max_operations, max_bytes) = (limits.txn_ops, limits.txn_bytes);
            return Err(Error::TxnTooLarge { operations, bytes, max_operations, max_bytes });
        }
        if let Some(key) = txn.overlap() {
            return Err(Error::OverlappingWrites { key: key[self.kv.root().len()..].to_owned() });
        }
        if txn.is_empty() {
            return Ok(None);
        }
        self.kv.commit(verb, key, txn).await
    }

    fn add(mut self, change: impl FnOnce(&Kv, &mut Txn) -> Result<()>) -> Self {
        if let Ok(txn) = &mut self.txn
            && let Err(error) = change(&self.kv, txn)
        {
            self.txn = Err(error);
        }
        self
    }
}
