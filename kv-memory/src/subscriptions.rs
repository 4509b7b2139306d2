//! Which watches a change of a key wakes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// The watches of a store, by their prefixes.
#[derive(Default)]
pub(crate) struct Subscriptions {
    /// By the length of the prefix, then by the prefix. A write looks up the beginnings of its key of just these
    /// lengths, so its cost does not grow with the number of watches on other keys.
    by_length: BTreeMap<usize, HashMap<String, Vec<Arc<Subscription>>>>,
}

/// The state of one watch that writes change.
pub(crate) struct Subscription {
    /// The position in the history of the first event that the watch has not read; 0 if it has read all.
    ///
    /// It changes only while the state is locked.
    unread: AtomicU64,
    wake: Notify,
}

impl Subscription {
    pub(crate) fn new(unread: Option<u64>) -> Arc<Self> {
        Arc::new(Self { unread: AtomicU64::new(unread.unwrap_or(0)), wake: Notify::new() })
    }

    /// The position of the first event that was not read.
    pub(crate) fn unread(&self) -> Option<u64> {
        Some(self.unread.load(Ordering::Relaxed)).filter(|position| *position != 0)
    }

    /// Notes, while the state is locked, what was read: everything before a position, or everything.
    pub(crate) fn set_unread(&self, position: Option<u64>) {
        self.unread.store(position.unwrap_or(0), Ordering::Relaxed);
    }

    /// Notified when there is something to read.
    pub(crate) fn wake(&self) -> &Notify {
        &self.wake
    }
}

impl Subscriptions {
    pub(crate) fn add(&mut self, prefix: &str, subscription: Arc<Subscription>) {
        let same_length = self.by_length.entry(prefix.len()).or_default();
        same_length.entry(prefix.to_owned()).or_default().push(subscription);
    }

    pub(crate) fn remove(&mut self, prefix: &str, subscription: &Arc<Subscription>) {
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

    /// Wakes the watches that a key concerns; its event is at this position in the history.
    pub(crate) fn announce(&self, key: &str, position: u64) {
        for (length, same_length) in self.by_length.range(..=key.len()) {
            let same_prefix = key.get(..*length).and_then(|prefix| same_length.get(prefix));
            for subscription in same_prefix.into_iter().flatten() {
                if subscription.unread().is_none() {
                    subscription.set_unread(Some(position));
                    subscription.wake.notify_one();
                }
            }
        }
    }
}
