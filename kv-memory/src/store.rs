//! The shared store: the lock around its state, consistent reads, and the task that ends lapsed leases.

use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crossbeam_utils::sync::{ShardedLock, ShardedLockReadGuard, ShardedLockWriteGuard};
use kv_core::{Error, Result, Snapshot, Value};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::history::Record;
use crate::state::State;

pub(crate) struct Store {
    /// Sharded, so that readers on several threads do not wait for one another's count of readers; a write, which
    /// takes every shard, pays for it with less than it takes to look a key up in a large store.
    state: ShardedLock<State>,
    /// Ends lapsed leases, on the runtime of whoever needed it first; see [`Store::watch_clock`].
    clock: Mutex<Option<JoinHandle<()>>>,
    /// Wakes the clock: a lease may lapse sooner than it thinks, or the store is gone.
    deadlines_changed: Arc<Notify>,
}

impl Store {
    /// How many entries a snapshot copies before it lets writers in.
    const PIECE: usize = 1024;
    /// How often a snapshot starts anew because writers outran the history, before it keeps them out.
    const PATIENCE: usize = 3;

    pub(crate) fn new(history: usize) -> Arc<Self> {
        let deadlines_changed = Arc::new(Notify::new());
        let state = ShardedLock::new(State::new(history, deadlines_changed.clone()));
        Arc::new(Self { state, clock: Mutex::new(None), deadlines_changed })
    }

    pub(crate) fn read(&self) -> ShardedLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> ShardedLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn history_limit(&self) -> usize {
        self.read().history.limit()
    }

    pub(crate) fn get(&self, key: &str) -> Result<Value> {
        let state = self.read();
        state.entries.get(key).map(|entry| entry.value.clone()).ok_or_else(|| Error::NotFound { key: key.to_owned() })
    }

    /// Reads everything below a prefix as it was at one point, without keeping writers out all the while.
    pub(crate) async fn list(&self, prefix: &str) -> Snapshot {
        for _ in 0..Self::PATIENCE {
            if let Some(snapshot) = self.list_in_pieces(prefix, Self::PIECE).await {
                return snapshot;
            }
        }
        // One piece cannot be outrun.
        self.list_in_pieces(prefix, usize::MAX).await.unwrap_or_default()
    }

    /// Copies the entries piece by piece, and takes back, in each piece, what was written since the first.
    ///
    /// `None` if the history no longer says what to take back.
    async fn list_in_pieces(&self, prefix: &str, piece: usize) -> Option<Snapshot> {
        let mut snapshot = Snapshot::default();
        let mut begun_at = None;
        let mut from = Bound::Included(prefix.to_owned());
        loop {
            {
                let state = self.read();
                let position = *begun_at.get_or_insert_with(|| {
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
                        take_back(&mut entries, record);
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

    /// Lists the children of a directory, skipping what lies below its sub-directories.
    pub(crate) fn keys(&self, prefix: &str) -> Vec<String> {
        let state = self.read();
        let mut children = Vec::new();
        let mut from = Bound::Included(prefix.to_owned());
        loop {
            let Some((key, _)) = state.below(prefix, as_deref(&from)).next() else { return children };
            let sub_directory = key[prefix.len()..].find('/').map(|length| &key[..=prefix.len() + length]);
            let child = sub_directory.unwrap_or(key);
            // A foreign key that is the directory's own path is no child of it.
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

    /// Sees to it that lapsed leases end although nobody calls in.
    ///
    /// To be called wherever somebody begins to depend on it, within a runtime: the one that ran the clock before
    /// may have been shut down.
    pub(crate) fn watch_clock(self: &Arc<Self>) {
        let mut clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        if clock.as_ref().is_none_or(JoinHandle::is_finished) {
            *clock = Some(tokio::spawn(end_lapsed(Arc::downgrade(self), self.deadlines_changed.clone())));
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.deadlines_changed.notify_one();
    }
}

async fn end_lapsed(store: Weak<Store>, deadlines_changed: Arc<Notify>) {
    loop {
        let next = match store.upgrade() {
            Some(store) => store.write().expire(Instant::now()),
            None => return,
        };
        match next {
            Some(deadline) => {
                tokio::select! {
                    () = tokio::time::sleep_until(deadline) => {}
                    () = deadlines_changed.notified() => {}
                }
            }
            None => deadlines_changed.notified().await,
        }
    }
}

fn as_deref(bound: &Bound<String>) -> Bound<&str> {
    bound.as_ref().map(String::as_str)
}

/// Undoes one change in a sorted piece of a snapshot.
fn take_back(entries: &mut Vec<(String, Value)>, record: &Record) {
    let place = entries.binary_search_by(|(key, _)| key.cmp(&record.key));
    match (place, &record.previous) {
        (Ok(at), Some(previous)) => entries[at].1 = previous.clone(),
        (Ok(at), None) => drop(entries.remove(at)),
        (Err(at), Some(previous)) => entries.insert(at, (record.key.clone(), previous.clone())),
        (Err(_), None) => {}
    }
}
