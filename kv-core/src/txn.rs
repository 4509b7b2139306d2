//! Transactions: what a backend is asked to apply, and the builder that users hold.

use bytes::Bytes;

use crate::{Error, Kv, Lock, Result};

/// What a backend is to apply: all of it at one index, or nothing (clause W5).
///
/// Keys are complete here: the root of the handle is part of them. [`Kv`] has checked keys, sizes and counts, and
/// that no two operations write the same key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Txn {
    /// What must hold.
    pub checks: Vec<Check>,
    /// What is done when every check holds.
    pub operations: Vec<Operation>,
}

impl Txn {
    /// Checks and operations together, as [`Limits::txn_ops`](crate::Limits::txn_ops) counts them.
    pub fn len(&self) -> usize {
        self.checks.len() + self.operations.len()
    }

    /// Whether there is nothing to check and nothing to do.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of keys and values together, as [`Limits::txn_bytes`](crate::Limits::txn_bytes) counts them.
    pub fn bytes(&self) -> usize {
        let checks = self.checks.iter().map(|check| match check {
            Check::Index { key, .. } => key.len(),
            Check::Held(guard) => guard.key.len() + guard.owner.len(),
        });
        let operations = self.operations.iter().map(|operation| match operation {
            Operation::Set { key, data } => key.len() + data.len(),
            Operation::Delete { key } | Operation::DeletePrefix { prefix: key } => key.len(),
        });
        checks.sum::<usize>() + operations.sum::<usize>()
    }

    /// A key or prefix that two operations write, if any.
    fn overlap(&self) -> Option<&str> {
        let mut writes: Vec<(&str, bool)> = self
            .operations
            .iter()
            .map(|operation| match operation {
                Operation::Set { key, .. } | Operation::Delete { key } => (key.as_str(), false),
                Operation::DeletePrefix { prefix } => (prefix.as_str(), true),
            })
            .collect();
        // In sorted order everything below a prefix follows it without a gap; of equal ones the prefix goes first.
        writes.sort_unstable_by(|a, b| a.0.cmp(b.0).then(b.1.cmp(&a.1)));
        let mut covering: Option<&str> = None;
        let mut last: Option<&str> = None;
        for (key, is_prefix) in writes {
            if last == Some(key) || covering.is_some_and(|prefix| key.starts_with(prefix)) {
                return Some(key);
            }
            if is_prefix {
                covering = Some(key);
            }
            last = Some(key);
        }
        None
    }
}

/// A condition of a [`Txn`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// The key has this index; 0: it does not exist. Otherwise [`Error::Conflict`] with the key.
    Index {
        /// The complete key.
        key: String,
        /// The index that it must have, or 0.
        index: u64,
    },
    /// The lock is still held under this token. Otherwise [`Error::Lost`] with the lock's key.
    Held(Guard),
}

/// What a store needs to tell whether a lock is still held by the one who took it.
///
/// A backend fills it in when the lock is granted and reads it in a [`Check::Held`]; what `owner` means is its own
/// affair (a session, the contender's key, …).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Guard {
    /// The complete key of the lock.
    pub key: String,
    /// Who holds it, in the store's terms.
    pub owner: String,
    /// The fencing token.
    pub token: u64,
}

/// A write of a [`Txn`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Sets a key, whether or not it exists.
    Set {
        /// The complete key.
        key: String,
        /// Its new data.
        data: Bytes,
    },
    /// Deletes a key; one that does not exist is no error.
    Delete {
        /// The complete key.
        key: String,
    },
    /// Deletes every key that begins with a string: empty (everything), or ending in `/`.
    DeletePrefix {
        /// The complete prefix.
        prefix: String,
    },
}

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

#[cfg(test)]
mod tests {
    use super::*;

    fn overlap(operations: &[(&str, &str)]) -> Option<String> {
        let operations = operations
            .iter()
            .map(|(verb, key)| match *verb {
                "set" => Operation::Set { key: (*key).to_owned(), data: Bytes::new() },
                "delete" => Operation::Delete { key: (*key).to_owned() },
                _ => Operation::DeletePrefix { prefix: (*key).to_owned() },
            })
            .collect();
        Txn { checks: Vec::new(), operations }.overlap().map(str::to_owned)
    }

    #[test]
    fn a_key_is_written_at_most_once() {
        assert_eq!(overlap(&[("set", "a"), ("set", "b"), ("delete", "c")]), None);
        assert_eq!(overlap(&[("set", "a"), ("delete", "a")]).as_deref(), Some("a"));
        assert_eq!(overlap(&[("delete", "d"), ("tree", "d/"), ("set", "dx")]), None);
        assert_eq!(overlap(&[("tree", "d/"), ("set", "e"), ("set", "d/z/y")]).as_deref(), Some("d/z/y"));
        assert_eq!(overlap(&[("tree", "d/"), ("tree", "d/e/")]).as_deref(), Some("d/e/"));
        assert_eq!(overlap(&[("tree", ""), ("set", "a")]).as_deref(), Some("a"));
    }
}
