//! The connection between queries and watches: the watches that each query feeds, and the state that it showed last.

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
    /// Prefixes that the token may not list, although it may list what is below them. None of them begins with another.
    refused: Vec<String>,
}

/// One query with the watches that it feeds. Its task ends when it is dropped.
///
/// A query without watches ends after its next answer, because the agent would not free its connection earlier. Until
/// then new watches can join it.
pub(super) struct Feed {
    id: u64,
    pub(super) scope: ScopeBuf,
    /// Whether it replaced several queries and serves every watch that it covers.
    pub(super) merged: bool,
    pub(super) slots: Vec<Arc<Slot>>,
    /// The state that it showed last.
    state: Option<Arc<State>>,
    /// Makes it read again at once.
    kick: Arc<Notify>,
    /// `None` until the task has been spawned.
    task: Option<AbortHandle>,
}

/// The start of a query: what the task of a new feed needs.
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
        // The query shows each change only once. So it must read again if it has shown changes that are newer than that
        // listing.
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

    /// Whether a query of this prefix, or of one below it, was refused.
    pub(super) fn is_refused(&self, prefix: &str) -> bool {
        self.refused.iter().any(|refused| refused.starts_with(prefix))
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

    /// Removes a feed without watches. Returns whether it is gone.
    pub(super) fn end_unwatched(&self, id: u64) -> bool {
        let mut inner = self.lock();
        inner.feeds.retain(|feed| feed.id != id || feed.is_watched());
        inner.find(id).is_none()
    }

    /// Returns the last state of a feed and the changes since then; `None` if no watch is left.
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

    /// Ends the watches of a feed that have one of these keys in their scope.
    pub(super) fn refuse(&self, id: u64, keys: &[&str], error: impl Fn() -> Error) {
        let mut inner = self.lock();
        let Some(feed) = inner.find(id) else { return };
        let is_refused = |slot: &mut Arc<Slot>| keys.iter().any(|key| slot.scope.as_scope().has(key));
        for slot in feed.slots.extract_if(.., is_refused) {
            slot.fail(error());
        }
    }

    /// Whether a watch of a feed saw something in its scope before, and would now see nothing.
    pub(super) fn empties(&self, id: u64, before: &State, now: &State) -> bool {
        let mut inner = self.lock();
        let is_emptied = |slot: &Arc<Slot>| {
            let scope = slot.scope.as_scope();
            !before.rows(scope).is_empty() && now.rows(scope).is_empty()
        };
        inner.find(id).is_some_and(|feed| feed.slots.iter().any(is_emptied))
    }

    /// Replaces a merged feed whose query was refused by one feed for each watched scope; `None` if the feed is not
    /// merged.
    pub(super) fn split(&self, id: u64) -> Option<Vec<Start>> {
        let mut inner = self.lock();
        inner.find(id).filter(|feed| feed.merged)?;
        let mut feed = inner.remove(id)?;
        // The caller is the task of this feed, and goes on until it has started the others.
        feed.task = None;
        let refused = feed.scope.start();
        inner.refused.retain(|other| !refused.starts_with(other.as_str()));
        inner.refused.push(refused.to_owned());
        let mut starts: Vec<Start> = Vec::new();
        for slot in std::mem::take(&mut feed.slots) {
            match starts.iter().find(|start| start.scope == slot.scope).map(|start| start.id) {
                Some(id) => inner.find(id)?.slots.push(slot),
                None => starts.push(inner.add(slot.scope.clone(), vec![slot], None)),
            }
        }
        Some(starts)
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
    use bytes::Bytes;
    use hyper::StatusCode;
    use kv_core::backend::fate::Idempotence;
    use tokio::time::Instant;

    use super::*;
    use crate::api::answer::Answer;

    fn slot(prefix: &str) -> Arc<Slot> {
        let answer = Answer {
            status: StatusCode::NOT_FOUND,
            index: Some(1),
            body: Bytes::new(),
            idempotence: Idempotence::Repeatable,
        };
        let listing = Listing::parse(&answer, Instant::now(), Scope::Prefix(prefix)).expect("a listing");
        Arc::new(Slot::new(ScopeBuf::Prefix(prefix.to_owned()), &listing))
    }

    #[test]
    fn a_merged_feed_is_split_into_what_is_watched() {
        let feeds = Feeds::default();
        let slots = ["app/a/", "app/b/", "app/a/"].map(slot);
        let merged = feeds.lock().add_merged(ScopeBuf::Prefix("app/".to_owned()), slots.to_vec()).id;
        let starts = feeds.split(merged).expect("it is merged");
        let scopes: Vec<_> = starts.iter().map(|start| start.scope.start()).collect();
        assert_eq!(scopes, ["app/a/", "app/b/"]);
        let inner = feeds.lock();
        assert_eq!(inner.feeds.iter().map(|feed| feed.slots.len()).collect::<Vec<_>>(), [2, 1]);
        assert!(inner.is_refused("app/") && inner.is_refused("ap") && !inner.is_refused("app/a/"));
        drop(inner);
        assert!(feeds.split(starts[0].id).is_none(), "a feed of exactly what is watched cannot be split");
    }

    #[test]
    fn watches_without_access_end_alone() {
        let feeds = Feeds::default();
        let slots = ["app/a/", "app/b/"].map(slot);
        let merged = feeds.lock().add_merged(ScopeBuf::Prefix("app/".to_owned()), slots.to_vec()).id;
        feeds.refuse(merged, &["app/b/key"], || Error::permission_denied("not permitted"));
        assert!(feeds.lock().feeds[0].slots.iter().all(|slot| slot.scope.start() == "app/a/"));
    }

    #[test]
    fn a_feed_without_watches_is_removed() {
        let feeds = Feeds::default();
        let start = feeds.lock().add(ScopeBuf::Prefix(String::new()), Vec::new(), None);
        assert_eq!((start.id, start.index), (0, 0));
        assert!(feeds.end_unwatched(start.id) && feeds.lock().feeds.is_empty());
    }
}
