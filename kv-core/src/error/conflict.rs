//! The kinds of conflict, and their texts.

/// What a call found that is an [`Error::Conflict`](crate::Error::Conflict).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConflictKind {
    /// The key exists, and the call requires that it does not.
    Exists,
    /// The key is not at the index that the call requires: it has changed, or it does not exist.
    Changed,
    /// Another program uses the entry in which the store keeps the lock, so that the lock cannot be taken.
    Occupied {
        /// The complete key of that entry in the store.
        entry: String,
    },
}

impl ConflictKind {
    pub(super) fn about(&self, key: &str) -> String {
        match self {
            Self::Exists => format!("key {key:?} exists already; nothing was changed: read it, then decide"),
            Self::Changed => format!(
                "key {key:?} has changed since it was read, or does not exist; nothing was changed: read it again, then \
                 decide"
            ),
            Self::Occupied { entry } => format!(
                "the lock on {key:?} was not taken: the entry {entry:?}, where the store keeps it, is in use for \
                 something else; remove that entry, or lock another name"
            ),
        }
    }
}
