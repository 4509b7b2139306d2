//! Reads: one key, a consistent snapshot, the children of a directory.

use std::ops::{Bound, RangeBounds};

use kv_core::backend::Snapshot;
use kv_core::{Error, Result, Value};

use crate::history::Record;
use crate::shared::Shared;

/// How many entries a snapshot copies before it lets writers in.
const PIECE: usize = 1024;

/// How often a snapshot starts again because writers outran the history. Then it keeps them out.
const ATTEMPTS: usize = 3;

impl Shared {
    pub(crate) fn get(&self, key: &str) -> Result<Value> {
        let state = self.read();
        state.entries.get(key).map(|entry| entry.value.clone()).ok_or_else(|| Error::NotFound { key: key.to_owned() })
    }

    /// Reads every key with a prefix as of one moment, and lets writers in meanwhile.
    pub(crate) async fn list(&self, prefix: &str) -> Snapshot {
        for _ in 0..ATTEMPTS {
            if let Some(snapshot) = self.list_in_pieces(prefix, PIECE).await {
                return snapshot;
            }
        }
        // One piece cannot be outrun.
        self.list_in_pieces(prefix, usize::MAX).await.unwrap_or_default()
    }

    /// Copies the entries piece by piece, and undoes in each piece what was written since the first.
    ///
    /// `None` if the history no longer holds everything that must be undone.
    async fn list_in_pieces(&self, prefix: &str, piece: usize) -> Option<Snapshot> {
        let mut snapshot = Snapshot::default();
        let mut begin = None;
        let mut from = Bound::Included(prefix.to_owned());
        loop {
            {
                let state = self.read();
                let position = *begin.get_or_insert_with(|| {
                    snapshot.index = state.revision;
                    state.history.end()
                });
                let copied = state.below(prefix, as_deref(&from)).take(piece);
                let mut entries: Vec<_> = copied.map(|(key, entry)| (key.clone(), entry.value.clone())).collect();
                let to = match entries.last() {
                    Some((last, _)) if entries.len() == piece => Bound::Included(last.clone()),
                    _ => Bound::Unbounded,
                };
                for (_, record) in state.history.from(position)?.rev() {
                    let key = &record.key;
                    if key.starts_with(prefix) && (from.as_ref(), to.as_ref()).contains(&key) {
                        undo(&mut entries, record);
                    }
                }
                snapshot.entries.append(&mut entries);
                match to {
                    Bound::Included(last) => from = Bound::Excluded(last),
                    _ => return Some(snapshot),
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// Lists the children of a directory; it skips what is below its sub-directories.
    pub(crate) fn keys(&self, prefix: &str) -> Vec<String> {
        let state = self.read();
        let mut children = Vec::new();
        let mut from = Bound::Included(prefix.to_owned());
        loop {
            let Some((key, _)) = state.below(prefix, as_deref(&from)).next() else { return children };
            let sub_directory = key[prefix.len()..].find('/').map(|length| &key[..=prefix.len() + length]);
            let child = sub_directory.unwrap_or(key);
            // Another program may have left a key that is the directory's own path; that is no child.
            if child.len() > prefix.len() {
                children.push(child.to_owned());
            }
            from = match sub_directory {
                // `0` is the character after `/`.
                Some(path) => Bound::Included(format!("{}0", &path[..path.len() - 1])),
                None => Bound::Excluded(key.clone()),
            };
        }
    }
}

fn as_deref(bound: &Bound<String>) -> Bound<&str> {
    bound.as_ref().map(String::as_str)
}

/// Undoes one change in a sorted piece of a snapshot.
fn undo(entries: &mut Vec<(String, Value)>, record: &Record) {
    let place = entries.binary_search_by(|(key, _)| key.cmp(&record.key));
    match (place, &record.previous) {
        (Ok(at), Some(previous)) => entries[at].1 = previous.clone(),
        (Ok(at), None) => drop(entries.remove(at)),
        (Err(at), Some(previous)) => entries.insert(at, (record.key.clone(), previous.clone())),
        (Err(_), None) => {}
    }
}
