//! Where queries and watches meet: which watches each query feeds, and what it showed last.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kv_core::Error;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::diff::{Change, changes};
use super::slot::{Slot, Update};
use crate::api::listing::Listing;
use crate::api::state::{Scope, ScopeBuf, State};

/// The queries of one runtime. Their tasks end when this is dropped.
#[derive(Default)]
pub(super) struct Feeds {
    inner: Mutex<Inner>,
}

#[derive(Default)]
pub(super) struct Inner {
    next: u64,
    pub(super) feeds: Vec<Feed>,
}

/// One query with the watches that it feeds. Its task ends when it is dropped.
///
/// A query without watches ends after its next answer, because the agent would not free its connection earlier. Until
/// then new watches can join it.
pub(super) struct Feed {
    id: u64,
    pub(super) scope: ScopeBuf,
    /// Whether it replaced several queries, and serves every watch that it covers.
    pub(super) merged: bool,
    pub(super) slots: Vec<Arc<Slot>>,
    /// What it showed last.
    state: Option<Arc<State>>,
    /// Makes it read again at once.
    kick: Arc<Notify>,
    /// None until the task has been spawned.
    task: Option<AbortHandle>,
}

/// What the task of a new feed needs.
pub(super) struct Start {
    pub(super) id: u64,
    pub(super) scope: ScopeBuf,
    /// The index to wait beyond; 0 to begin with a read.
    pub(super) index: u64,
    pub(super) kick: Arc<Notify>,
}

impl Drop for Feed {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Feed {
    /// Feeds one more watch, which has read a listing of its own.
    pub(super) fn join(&mut self, slot: Arc<Slot>) {
        // The query must read again if it has shown changes that are newer than that listing: it shows each only once.
        if self.state.as_ref().is_some_and(|state| !slot.adopt(state)) {
            self.kick.notify_one();
        }
        self.slots.push(slot);
    }

    pub(super) fn is_watched(&self) -> bool {
        !self.slots.is_empty()
    }
}

impl Inner {
    /// Adds a feed. The caller spawns its task once the lock is free: a runtime that is shutting down drops the task, and
    /// the task then locks this.
    pub(super) fn add(&mut self, scope: ScopeBuf, slots: Vec<Arc<Slot>>, start: Option<(Arc<State>, u64)>) -> Start {
        let id = self.next;
        self.next += 1;
        let (state, index) = start.map_or((None, 0), |(state, index)| (Some(state), index));
        let kick = Arc::new(Notify::new());
        let start = Start { id, scope: scope.clone(), index, kick: kick.clone() };
        self.feeds.push(Feed { id, scope, merged: false, slots, state, kick, task: None });
        start
    }

    /// Adds a feed that replaces several others.
    pub(super) fn add_merged(&mut self, scope: ScopeBuf, slots: Vec<Arc<Slot>>) -> Start {
        let start = self.add(scope, slots, None);
        if let Some(feed) = self.find(start.id) {
            feed.merged = true;
        }
        start
    }

    fn find(&mut self, id: u64) -> Option<&mut Feed> {
        self.feeds.iter_mut().find(|feed| feed.id == id)
    }

    fn remove(&mut self, id: u64) -> Option<Feed> {
        let at = self.feeds.iter().position(|feed| feed.id == id)?;
        Some(self.feeds.swap_remove(at))
    }
}

impl Feeds {
    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the task of a feed.
    pub(super) fn started(&self, id: u64, task: AbortHandle) {
        match self.lock().find(id) {
            Some(feed) => feed.task = Some(task),
            None => task.abort(),
        }
    }

    /// Stops feeding a watch.
    pub(super) fn leave(&self, slot: &Arc<Slot>) {
        for feed in &mut self.lock().feeds {
            if let Some(place) = feed.slots.iter().position(|one| Arc::ptr_eq(one, slot)) {
                feed.slots.swap_remove(place);
                return;
            }
        }
    }

    /// Removes a feed that nobody watches. Returns whether it is gone.
    pub(super) fn end_unwatched(&self, id: u64) -> bool {
        let mut inner = self.lock();
        inner.feeds.retain(|feed| feed.id != id || feed.is_watched());
        inner.find(id).is_none()
    }

    /// Returns the last state of a feed, and what changed since then; `None` if nobody watches it any more.
    pub(super) fn compare(&self, id: u64, listing: &mut Listing) -> Option<(Option<Arc<State>>, Vec<Change>)> {
        // Only the one task that calls this changes the state, so the long comparison needs no lock.
        if self.end_unwatched(id) {
            return None;
        }
        let before = self.lock().find(id)?.state.clone();
        let mut changed = Vec::new();
        if let Some(before) = &before {
            changed = changes(before, &listing.state, Scope::Prefix(""), listing.index);
            if changed.is_empty() {
                listing.state = before.clone();
            }
        }
        Some((before, changed))
    }

    /// Hands an update to all watches of a feed. Returns whether it changed anything for one of them.
    pub(super) fn publish(&self, id: u64, update: Update) -> bool {
        let mut inner = self.lock();
        let Some(feed) = inner.find(id) else { return true };
        feed.state = Some(update.listing.state.clone());
        let update = Arc::new(update);
        let mut woken = false;
        for slot in &feed.slots {
            woken |= slot.offer(&update);
        }
        woken
    }

    /// Ends all watches of a feed, each with an error of its own.
    pub(super) fn fail(&self, id: u64, error: impl Fn() -> Error) {
        let Some(feed) = self.lock().remove(id) else { return };
        for slot in &feed.slots {
            slot.fail(error());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_feed_that_nobody_watches_is_removed() {
        let feeds = Feeds::default();
        let start = feeds.lock().add(ScopeBuf::Prefix(String::new()), Vec::new(), None);
        assert_eq!((start.id, start.index), (0, 0));
        assert!(feeds.end_unwatched(start.id) && feeds.lock().feeds.is_empty());
    }
}
