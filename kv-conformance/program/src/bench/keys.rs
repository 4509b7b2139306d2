//! The keys that a load is put on, shared out among the callers.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use kv_core::{Kv, Result};

/// The keys of a load: names that all have the same length.
#[derive(Debug, Clone)]
pub struct Keys(Arc<[String]>);

impl Keys {
    /// So many keys.
    pub fn new(keys: usize) -> Self {
        Self((0..keys).map(|key| format!("bench/{key:08}")).collect())
    }

    /// All of them, in their order.
    pub fn all(&self) -> &[String] {
        &self.0
    }

    /// What begins each of them, and nothing else.
    pub fn prefix(&self) -> &'static str {
        "bench/"
    }

    /// Those of one of `callers`: no two have a key in common, unless there are too few keys.
    pub fn of(&self, caller: usize, callers: usize) -> OwnKeys {
        OwnKeys { keys: self.clone(), first: caller, step: callers.max(1), next: caller }
    }

    /// Writes every key.
    ///
    /// # Errors
    /// Those of [`Kv::set`].
    pub async fn fill(&self, kv: &Kv, value: &Bytes) -> Result<()> {
        let writes = self.all().iter().map(|key| async move { kv.set(key, value.clone()).await.map(drop) });
        stream::iter(writes).buffer_unordered(128).try_collect().await
    }
}

/// The keys of one caller, which it goes through again and again.
#[derive(Debug, Clone)]
pub struct OwnKeys {
    keys: Keys,
    first: usize,
    step: usize,
    next: usize,
}

impl OwnKeys {
    /// The next key.
    pub fn next_key(&mut self) -> &str {
        let at = self.next_position();
        &self.keys.0[at]
    }

    /// The next key, as its position among all of them.
    pub fn next_position(&mut self) -> usize {
        let keys = self.keys.0.len();
        let at = self.next;
        self.next += self.step;
        if self.next >= keys {
            self.next = self.first % keys;
        }
        at % keys
    }

    /// The key at a position.
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
