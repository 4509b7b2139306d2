//! A transaction, as a backend receives it.

use bytes::Bytes;

/// What a backend is to apply: all of it at one index, or nothing ([clause W5](crate::contract::CLAUSES#W5)).
///
/// Keys are complete here: the root of the handle is part of them. [`Kv`](crate::Kv) has checked keys, sizes and
/// counts, and that no two operations write the same key.
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
    pub(crate) fn overlap(&self) -> Option<&str> {
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
    /// The key has this index; 0: it does not exist. Otherwise [`Error::Conflict`](crate::Error::Conflict) with the
    /// key.
    Index {
        /// The complete key.
        key: String,
        /// The index that it must have, or 0.
        index: u64,
    },
    /// The lock is still held under this token. Otherwise [`Error::Lost`](crate::Error::Lost) with the lock's key.
    Held(Guard),
}

/// What a store needs to check that a lock still has the holder that took it.
///
/// A backend fills it in when the lock is granted, and reads it in a [`Check::Held`]. The backend decides what `owner`
/// is: a session, the contender's key, or anything else. No lock of another store of the same kind may have the same
/// one, so that a guard never holds by accident in a store that it is not from. Random identities ensure that.
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
