//! Reads: one key, a consistent snapshot, the children of a directory.

use std::ops::{Bound, RangeBounds};
use std::sync::atomic::{AtomicBool, Ordering};

use kv_core::backend::{Operation, Snapshot, Txn};
use kv_core::{Error, Result, Value};

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
        self.read().below(prefix, Bound::Included(prefix)).nth(PIECE)?;
        for _ in 0..ATTEMPTS {
            let changed = self.write().follow(prefix);
            let mut tree = Tree { prefix: prefix.to_owned(), keys: Vec::new(), changed };
            while !tree.changed.load(Ordering::Relaxed) {
                {
                    let state = self.read();
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
        // Most directories are one piece.
        if let Some(children) = self.keys_in_pieces(prefix, None).await {
            return children;
        }
        for _ in 0..ATTEMPTS {
            let changed = self.write().follow(prefix);
            if let Some(children) = self.keys_in_pieces(prefix, Some(&changed)).await {
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
    /// `None` if keys have come or gone since the first piece, or if nobody follows that and there are more pieces.
    async fn keys_in_pieces(&self, prefix: &str, changed: Option<&AtomicBool>) -> Option<Vec<String>> {
        let mut children = Vec::new();
        let mut from = Bound::Included(prefix.to_owned());
        loop {
            {
                let state = self.read();
                // Written while the state is locked.
                if changed.is_some_and(|changed| changed.load(Ordering::Relaxed)) {
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
            changed?;
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

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Poll;

    use bytes::Bytes;
    use futures_util::poll;

    use super::*;
    use crate::options::Options;

    fn set(shared: &Shared, key: String) {
        let operations = vec![Operation::Set { key, data: Bytes::new() }];
        let txn = Txn { checks: Vec::new(), operations };
        shared.write().commit(txn, Vec::new(), &mut Vec::new()).expect("no checks");
    }

    /// Polls a call to its end, and lets another write between its pieces.
    async fn interrupted<T>(call: impl Future<Output = T>, mut between: impl FnMut(usize)) -> T {
        let (mut call, mut pieces) = (pin!(call), 0);
        loop {
            if let Poll::Ready(result) = poll!(call.as_mut()) {
                return result;
            }
            between(pieces);
            pieces += 1;
        }
    }

    #[tokio::test]
    async fn only_writers_in_the_tree_disturb_who_reads_it() {
        const KEYS: usize = 3 * PIECE;
        let shared = Shared::new(Options { history: 10, ..Options::default() });
        (0..KEYS).for_each(|key| set(&shared, format!("tree/{key:05}")));
        let elsewhere = |pieces| (0..20).for_each(|key| set(&shared, format!("beside/{pieces}/{key}")));
        let tree = interrupted(shared.large_tree("tree/"), elsewhere).await.expect("a large tree");
        assert!(tree.keys.len() == KEYS && !tree.changed.load(Ordering::Relaxed));
        let children = interrupted(shared.keys_in_pieces("tree/", Some(&tree.changed)), elsewhere).await;
        assert_eq!(children, Some(tree.keys));
        assert!(shared.large_tree("beside/").await.is_none(), "a small tree");

        // One that comes early is read the second time, and those that never end are not waited for.
        let once = |pieces| {
            if pieces == 0 {
                set(&shared, "tree/new".to_owned());
            }
        };
        assert_eq!(interrupted(shared.large_tree("tree/"), once).await.expect("a large tree").keys.len(), KEYS + 1);
        let always = |pieces| set(&shared, format!("tree/{pieces}"));
        assert!(interrupted(shared.large_tree("tree/"), always).await.is_none());
        assert!(interrupted(shared.keys("tree/"), |_| {}).await.len() > KEYS);
    }
}
