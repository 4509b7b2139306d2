//! Where a lease is in the store.

use kv_core::Error;

use crate::api::lock::{LOCK_FLAGS, entry_of};
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

    pub(super) fn lost(&self) -> Error {
        Error::Lost { key: self.name.clone() }
    }

    pub(super) fn conflict(&self) -> Error {
        Error::Conflict { key: self.name.clone() }
    }
}
