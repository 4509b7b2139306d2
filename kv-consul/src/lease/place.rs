//! Where a lease is in the store.

use kv_core::{ConflictKind, Error};

use crate::api::lock::{LOCK_FLAGS, entry_of};
use crate::api::messages::Operation;
use crate::shared::Shared;

/// The entry that the session of a lease holds.
#[derive(Debug)]
pub(super) struct Place {
    /// The key of the ephemeral key, or the name of the lock, as the caller gave it.
    pub(super) name: String,
    /// The key of the entry.
    pub(super) entry: String,
    is_lock: bool,
}

impl Place {
    pub(super) fn ephemeral_key(key: &str) -> Self {
        Self { name: key.to_owned(), entry: key.to_owned(), is_lock: false }
    }

    /// A lock is no key: its entry is below its name ([clause L10](kv_core::contract::CLAUSES#L10)).
    pub(super) fn lock(name: &str) -> Self {
        Self { name: name.to_owned(), entry: entry_of(name), is_lock: true }
    }

    /// The flags of the next write of the entry.
    pub(super) fn flags(&self, shared: &Shared) -> u64 {
        if self.is_lock { LOCK_FLAGS } else { shared.fresh_flags() }
    }

    /// The check that the session still holds the entry that it locked at this index.
    ///
    /// The entry of a lock is never written again, so its index tells the holder. A session may hold the same lock twice,
    /// one time after the other; its identifier does not tell them apart.
    pub(super) fn check<'a>(&'a self, session: &'a str, token: u64) -> Operation<'a> {
        if self.is_lock {
            Operation::check_index(&self.entry, token)
        } else {
            Operation::check_session(&self.entry, session)
        }
    }

    pub(super) fn lost(&self) -> Error {
        Error::Lost { key: self.name.clone() }
    }

    /// The entry holds what is not this lease's, and no other lease of its kind either.
    pub(super) fn conflict(&self) -> Error {
        let (key, entry) = (self.name.clone(), self.entry.clone());
        let kind = if self.is_lock { ConflictKind::Occupied { entry } } else { ConflictKind::Exists };
        Error::Conflict { key, kind }
    }
}
