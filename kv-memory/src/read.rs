//! Reads: one key, a consistent snapshot, the children of a directory.

use std::ops::{Bound, RangeBounds};

use kv_core::backend::{Operation, Snapshot, Txn};
use kv_core::{Error, EventType, Result, Value};

use crate::history::Record;
use crate::shared::Shared;
use crate::state::Tree;

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
                for record in state.history.undo_to(position)? {
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

    /// Reads the keys of each large tree that a transaction deletes, and lets others in meanwhile: what is to be done
    /// while they wait is less then.
    pub(crate) async fn large_trees(&self, txn: &Txn) -> Vec<Tree> {
        let mut trees = Vec::new();
        for operation in &txn.operations {
            if let Operation::DeletePrefix { prefix } = operation {
                trees.extend(self.large_tree(prefix).await);
            }
        }
        trees
    }

    /// `None` if the tree is not large, or if keys of it come and go all the time.
    async fn large_tree(&self, prefix: &str) -> Option<Tree> {
        for _ in 0..ATTEMPTS {
            let mut tree = Tree { prefix: prefix.to_owned(), keys: Vec::new(), position: 0 };
            loop {
                {
                    let state = self.read();
                    if tree.keys.is_empty() {
                        tree.position = state.history.end();
                    } else if !state.has_same_keys(&tree) {
                        break;
                    }
                    let from = tree.keys.last().map_or(Bound::Included(prefix), |key| Bound::Excluded(key));
                    let more: Vec<_> = state.below(prefix, from).take(PIECE).map(|(key, _)| key.clone()).collect();
                    let is_end = more.len() < PIECE;
                    tree.keys.extend(more);
                    if is_end {
                        return Some(tree).filter(|tree| tree.keys.len() > PIECE);
                    }
                }
                tokio::task::yield_now().await;
            }
        }
        None
    }

    /// Lists the children of a directory as of one moment, and lets writers in meanwhile.
    pub(crate) async fn keys(&self, prefix: &str) -> Vec<String> {
        for _ in 0..ATTEMPTS {
            if let Some(children) = self.keys_in_pieces(prefix).await {
                return children;
            }
        }
        // The keys below change faster than they are read, and a snapshot can undo that.
        let mut children: Vec<String> = Vec::new();
        for (key, _) in self.list(prefix).await.entries {
            let child = child(prefix, &key);
            if child.len() > prefix.len() && children.last().is_none_or(|last| last != child) {
                children.push(child.to_owned());
            }
        }
        children
    }

    /// Looks up the children piece by piece; it skips what is below the sub-directories.
    ///
    /// `None` if keys came or went since the first piece.
    async fn keys_in_pieces(&self, prefix: &str) -> Option<Vec<String>> {
        let mut children = Vec::new();
        let mut begin = None;
        let mut from = Bound::Included(prefix.to_owned());
        loop {
            {
                let state = self.read();
                let position = *begin.get_or_insert_with(|| state.history.end());
                let mut since = state.history.from(position)?;
                let came_or_went = |record: &Record| record.event_type != EventType::Update;
                if since.any(|(_, record)| came_or_went(record) && record.key.starts_with(prefix)) {
                    return None;
                }
                for _ in 0..PIECE {
                    let Some((key, _)) = state.below(prefix, as_deref(&from)).next() else { return Some(children) };
                    let child = child(prefix, key);
                    // Another program may have left a key that is the directory's own path; that is no child.
                    if child.len() > prefix.len() {
                        children.push(child.to_owned());
                    }
                    from = match child.strip_suffix('/').filter(|_| child.len() > prefix.len()) {
                        // `0` is the character after `/`.
                        Some(path) => Bound::Included(format!("{path}0")),
                        None => Bound::Excluded(key.clone()),
                    };
                }
            }
            tokio::task::yield_now().await;
        }
    }
}

/// The child of a directory that a key below it belongs to.
fn child<'a>(prefix: &str, key: &'a str) -> &'a str {
    let sub_directory = key[prefix.len()..].find('/').map(|length| &key[..=prefix.len() + length]);
    sub_directory.unwrap_or(key)
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
