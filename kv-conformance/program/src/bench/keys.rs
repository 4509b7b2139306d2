//! The keys of a load, divided among the callers.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use kv_core::{Kv, Result};

/// The keys of a load. All names have the same length.
#[derive(Debug, Clone)]
pub struct Keys(Arc<[String]>);

impl Keys {
    /// Creates this many keys.
    pub fn new(keys: usize) -> Self {
        Self((0..keys).map(|key| format!("bench/{key:08}")).collect())
    }

    /// Returns all keys, in order.
    pub fn all(&self) -> &[String] {
        &self.0
    }

    /// Returns the prefix that matches these keys and no others.
    pub fn prefix(&self) -> &'static str {
        "bench/"
    }

    /// Returns the keys of one of `callers`. No two callers share a key, unless there are too few keys.
    pub fn of(&self, caller: usize, callers: usize) -> OwnKeys {
        OwnKeys { keys: self.clone(), first: caller, step: callers.max(1), next: caller }
    }

    /// Writes every key.
    ///
    /// # Errors
    /// The errors of [`Kv::set`].
    pub async fn fill(&self, kv: &Kv, value: &Bytes) -> Result<()> {
        let writes = self.all().iter().map(|key| async move { kv.set(key, value.clone()).await.map(drop) });
        stream::iter(writes).buffer_unordered(128).try_collect().await
    }
}

/// The keys of one caller, as an endless cycle.
#[derive(Debug, Clone)]
pub struct OwnKeys {
    keys: Keys,
    first: usize,
    step: usize,
    next: usize,
}

impl OwnKeys {
    /// Returns the next key.
    pub fn next_key(&mut self) -> &str {
        let at = self.next_position();
        &self.keys.0[at]
    }

    /// Returns the position of the next key among all keys.
    pub fn next_position(&mut self) -> usize {
        let keys = self.keys.0.len();
        let at = self.next;
        self.next += self.step;
        if self.next >= keys {
            self.next = self.first % keys;
        }
        at % keys
    }

    /// Returns the key at a position.
    pub fn key_at(&self, position: usize) -> &str {
        &self.keys.0[position]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_share_the_keys_out() {
        let keys = Keys::new(10);
        let taken = |caller, callers, times| -> Vec<usize> {
            let mut own = keys.of(caller, callers);
            (0..times).map(|_| own.next_position()).collect()
        };
        assert_eq!(taken(0, 3, 5), [0, 3, 6, 9, 0]);
        assert_eq!(taken(2, 3, 4), [2, 5, 8, 2]);
        assert_eq!(taken(11, 16, 3), [1, 1, 1]);
    }
}
