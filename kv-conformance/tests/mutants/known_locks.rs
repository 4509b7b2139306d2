//! What the faults of locks need to know about the locks of a store.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kv_core::Value;

/// What the faults need to know about the locks of a store.
#[derive(Default)]
pub(crate) struct Locks {
    /// The locks that are held, with their tokens. Under some faults, these are the locks that are really held.
    pub(crate) held: Mutex<BTreeMap<String, u64>>,
    /// The waiters: the key of each, and a rank. The smallest rank is served first.
    pub(crate) waiting: Mutex<Vec<(String, u64)>>,
    pub(crate) arrivals: AtomicU64,
    /// The trees that were deleted, in order.
    pub(crate) trees: Mutex<Vec<String>>,
}

impl Locks {
    pub(crate) fn released(&self, key: &str, token: u64) {
        let mut held = lock(&self.held);
        if held.get(key) == Some(&token) {
            held.remove(key);
        }
    }

    /// The entries that a store with a leak shows for its locks.
    pub(crate) fn entries(&self, prefix: &str) -> Vec<(String, Value)> {
        let held = lock(&self.held);
        let entries = held.iter().map(|(key, token)| (format!("{key}/1f"), Value::new("", *token)));
        entries.filter(|(key, _)| key.starts_with(prefix)).collect()
    }

    pub(crate) fn token(&self, key: &str) -> Option<u64> {
        lock(&self.held).get(key).copied()
    }
}

/// A place among the waiters. Dropping it gives the place up.
pub(crate) struct Place<'a> {
    pub(crate) locks: &'a Locks,
    pub(crate) key: String,
    pub(crate) rank: u64,
}

impl Place<'_> {
    pub(crate) fn is_first(&self) -> bool {
        let waiting = lock(&self.locks.waiting);
        !waiting.iter().any(|(key, rank)| *key == self.key && *rank < self.rank)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        lock(&self.locks.waiting).retain(|(key, rank)| (key, *rank) != (&self.key, self.rank));
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
