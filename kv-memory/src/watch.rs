//! Watches: cursors into the history, woken by the writes that concern them.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{StreamExt as _, stream};
use kv_core::{Error, Event, EventStream, Result};
use tokio::sync::Notify;

use crate::store::Store;

/// Who is to be woken by a write of which key.
#[derive(Default)]
pub(crate) struct Subscriptions {
    /// By the length of the prefix, then the prefix: a write looks up its key's beginnings of just these lengths,
    /// so that what it costs does not grow with the number of watches on other keys.
    by_length: BTreeMap<usize, HashMap<String, Vec<Arc<Subscription>>>>,
}

/// What a write leaves for one watch.
struct Subscription {
    /// The position in the history of the first event that the watch has not seen; 0: it has seen all.
    ///
    /// Only changed under the lock of the state.
    unseen: AtomicU64,
    wake: Notify,
}

impl Subscriptions {
    fn add(&mut self, prefix: &str, subscription: Arc<Subscription>) {
        let same_length = self.by_length.entry(prefix.len()).or_default();
        same_length.entry(prefix.to_owned()).or_default().push(subscription);
    }

    fn remove(&mut self, prefix: &str, subscription: &Arc<Subscription>) {
        let Some(same_length) = self.by_length.get_mut(&prefix.len()) else { return };
        let Some(same_prefix) = same_length.get_mut(prefix) else { return };
        same_prefix.retain(|other| !Arc::ptr_eq(other, subscription));
        if same_prefix.is_empty() {
            same_length.remove(prefix);
        }
        if same_length.is_empty() {
            self.by_length.remove(&prefix.len());
        }
    }

    /// Tells the watches that a key concerns where in the history its event will stand.
    pub(crate) fn announce(&self, key: &str, position: u64) {
        for (length, same_length) in self.by_length.range(..=key.len()) {
            let same_prefix = key.get(..*length).and_then(|prefix| same_length.get(prefix));
            for subscription in same_prefix.into_iter().flatten() {
                if subscription.unseen.load(Ordering::Relaxed) == 0 {
                    subscription.unseen.store(position, Ordering::Relaxed);
                    subscription.wake.notify_one();
                }
            }
        }
    }
}

/// One watch; dropping it ends it.
pub(crate) struct MemoryWatch {
    store: Arc<Store>,
    prefix: String,
    subscription: Arc<Subscription>,
    /// The index that the watch was asked to begin after, then that of the last event read.
    after: u64,
    /// Read, but not delivered yet.
    events: VecDeque<Event>,
    failed: bool,
}

impl MemoryWatch {
    /// How many events are read at a time, under the lock.
    const BATCH: usize = 64;

    /// Begins after an index, or now; the state stays locked while both are found out.
    pub(crate) fn open(store: &Arc<Store>, prefix: &str, after: u64) -> Result<Self> {
        let mut state = store.write();
        let oldest = state.history.compacted();
        if after != 0 && after < oldest {
            return Err(Error::Compacted { after, oldest: Some(oldest) });
        }
        let after = if after == 0 { state.revision } else { after };
        let position = state.history.position_after(after);
        let unseen = if position < state.history.end() { position } else { 0 };
        let subscription = Arc::new(Subscription { unseen: AtomicU64::new(unseen), wake: Notify::new() });
        state.subscriptions.add(prefix, subscription.clone());
        drop(state);
        let (store, prefix) = (store.clone(), prefix.to_owned());
        Ok(Self { store, prefix, subscription, after, events: VecDeque::new(), failed: false })
    }

    pub(crate) fn into_stream(self) -> EventStream {
        stream::unfold(self, |mut watch| async move { watch.next().await.map(|event| (event, watch)) }).boxed()
    }

    async fn next(&mut self) -> Option<Result<Event>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(Ok(event));
            }
            if self.failed {
                return None;
            }
            if self.subscription.unseen.load(Ordering::Relaxed) == 0 {
                self.subscription.wake.notified().await;
            } else if let Err(error) = self.read_ahead() {
                self.failed = true;
                return Some(Err(error));
            }
        }
    }

    fn read_ahead(&mut self) -> Result<()> {
        // Shared with readers, but not with writers: nothing is announced meanwhile.
        let state = self.store.read();
        let unseen = &self.subscription.unseen;
        let Some(records) = state.history.from(unseen.load(Ordering::Relaxed)) else {
            return Err(Error::Compacted { after: self.after, oldest: Some(state.history.compacted()) });
        };
        for (position, record) in records {
            if self.events.len() == Self::BATCH {
                unseen.store(position, Ordering::Relaxed);
                return Ok(());
            }
            if record.index > self.after && record.key.starts_with(&self.prefix) {
                self.events.push_back(record.event());
            }
        }
        unseen.store(0, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for MemoryWatch {
    fn drop(&mut self) {
        self.store.write().subscriptions.remove(&self.prefix, &self.subscription);
    }
}
