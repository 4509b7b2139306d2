//! Shares blocking queries among watches: one for each prefix, and fewer, wider ones where there would be too many.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kv_core::Error;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::blocking::Following;
use crate::client::Client;
use crate::diff::{Change, Scope, State};
use crate::path;
use crate::read::Listing;
use crate::watch::{Slot, Subscription, Update};

/// The most queries that somebody watches: each occupies a connection, of which an agent grants a limited number to
/// one address.
const QUERIES: usize = 40;

/// Which keys a query or a watch is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Query {
    /// Those that begin with a string.
    Prefix(String),
    /// One alone.
    Key(String),
}

impl Query {
    pub(crate) fn scope(&self) -> Scope<'_> {
        match self {
            Self::Prefix(prefix) => Scope::Prefix(prefix),
            Self::Key(key) => Scope::Key(key),
        }
    }

    pub(crate) fn start(&self) -> &str {
        match self {
            Self::Prefix(text) | Self::Key(text) => text,
        }
    }

    /// Whether this one sees everything that the other is about.
    fn covers(&self, other: &Self) -> bool {
        match self {
            Self::Prefix(prefix) => other.start().starts_with(prefix.as_str()),
            Self::Key(_) => self == other,
        }
    }
}

/// The blocking queries of one client.
pub(crate) struct Hub {
    client: Arc<Client>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    next: u64,
    followers: Vec<Follower>,
}

/// A blocking query with the watches that it feeds; its task ends when it is dropped.
///
/// Without any watch it ends after its next answer, since the agent would not end it sooner; until then it may find new
/// ones.
struct Follower {
    id: u64,
    query: Query,
    /// Whether it took the place of several, and is there for whatever it covers.
    merged: bool,
    slots: Vec<Arc<Slot>>,
    /// What it showed last.
    state: Option<Arc<State>>,
    /// Makes it look again at once.
    kick: Arc<Notify>,
    task: AbortHandle,
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Hub {
    pub(crate) fn new(client: Arc<Client>) -> Arc<Self> {
        Arc::new(Self { client, inner: Mutex::default() })
    }

    /// Watches from what a listing of the query showed, for changes with an index above `after`.
    ///
    /// If the state of an older listing is given, the changes since then come first.
    pub(crate) fn subscribe(
        self: &Arc<Self>,
        query: Query,
        base: Listing,
        after: u64,
        older: Option<Arc<State>>,
    ) -> Subscription {
        let slot = Arc::new(Slot::new(query, &base));
        let start = (base.state.clone(), base.index);
        // What differs from that state came after it, whatever its index says.
        let skipped = if older.is_some() { 0 } else { after };
        if let Some(older) = older {
            slot.step_back(older, after, base);
        }
        let mut inner = self.inner();
        let feeds = |one: &Follower| one.query == slot.query || (one.merged && one.query.covers(&slot.query));
        if let Some(at) = inner.followers.iter().position(feeds) {
            inner.followers[at].join(slot.clone());
        } else if inner.followers.iter().filter(|one| !one.slots.is_empty()).count() < QUERIES {
            let follower = self.follower(&mut inner, slot.query.clone(), vec![slot.clone()], Some(start));
            inner.followers.push(follower);
        } else {
            self.merge(&mut inner, slot.clone());
        }
        drop(inner);
        Subscription::new(slot, self.clone(), skipped)
    }

    /// Stops feeding a watch.
    pub(crate) fn leave(&self, slot: &Arc<Slot>) {
        for follower in &mut self.inner().followers {
            if let Some(place) = follower.slots.iter().position(|one| Arc::ptr_eq(one, slot)) {
                follower.slots.swap_remove(place);
                return;
            }
        }
    }

    /// Ends a query that nobody watches, and says whether it is at its end.
    pub(crate) fn end_unneeded(&self, id: u64) -> bool {
        let mut inner = self.inner();
        inner.followers.retain(|one| one.id != id || !one.slots.is_empty());
        inner.find(id).is_none()
    }

    /// What changed since a query's last listing, and that; none for a query that nobody watches any more.
    pub(crate) fn compare(&self, id: u64, listing: &mut Listing) -> Option<(Option<Arc<State>>, Vec<Change>)> {
        // Only the one task that calls this changes the state, so that the long work needs no lock.
        if self.end_unneeded(id) {
            return None;
        }
        let before = self.inner().find(id)?.state.clone();
        let mut changes = Vec::new();
        if let Some(before) = &before {
            changes = before.changes(&listing.state, Scope::Prefix(""), listing.index);
            if changes.is_empty() {
                listing.state = before.clone();
            }
        }
        Some((before, changes))
    }

    /// Hands an update to every watch of a query, and says whether it changed anything for one of them.
    pub(crate) fn publish(&self, id: u64, update: Update) -> bool {
        let mut inner = self.inner();
        let Some(follower) = inner.find(id) else { return true };
        follower.state = Some(update.listing.state.clone());
        let update = Arc::new(update);
        let mut woken = false;
        for slot in &follower.slots {
            woken |= slot.offer(&update);
        }
        woken
    }

    /// Ends every watch of a query.
    pub(crate) fn fail(&self, id: u64, error: &Error) {
        let mut inner = self.inner();
        let Some(at) = inner.followers.iter().position(|one| one.id == id) else { return };
        let follower = inner.followers.swap_remove(at);
        drop(inner);
        for slot in &follower.slots {
            let reason = match error {
                Error::PermissionDenied { context, .. } => context.reason.clone(),
                other => other.to_string(),
            };
            slot.fail(Error::permission_denied(reason));
        }
    }

    /// Ends every watch of a query whose task ended before its time: with the runtime that it was started in.
    pub(crate) fn abandon(&self, id: u64) {
        // A runtime that is shutting down drops a task while it is being started, and the lock is held then.
        let Ok(mut inner) = self.inner.try_lock() else { return };
        let Some(at) = inner.followers.iter().position(|one| one.id == id) else { return };
        let follower = inner.followers.swap_remove(at);
        drop(inner);
        for slot in &follower.slots {
            slot.fail(Error::unavailable("the runtime that the watch was opened in has ended"));
        }
    }

    /// Puts wider queries in the place of neighbouring ones until half the number is left, one of them for `slot`.
    fn merge(self: &Arc<Self>, inner: &mut Inner, slot: Arc<Slot>) {
        let watched = inner.followers.iter().filter(|one| !one.slots.is_empty()).map(|one| one.query.start());
        let prefixes = common_prefixes(watched.chain([slot.query.start()]).collect(), QUERIES / 2);
        let mut homeless = Some(slot);
        for prefix in prefixes {
            let query = Query::Prefix(path::queryable(&prefix).to_owned());
            let covered = inner.followers.iter_mut().filter(|one| query.covers(&one.query));
            let mut slots: Vec<Arc<Slot>> = covered.flat_map(|one| std::mem::take(&mut one.slots)).collect();
            slots.extend(homeless.take_if(|slot| query.covers(&slot.query)));
            if !slots.is_empty() {
                let mut follower = self.follower(inner, query, slots, None);
                follower.merged = true;
                inner.followers.push(follower);
            }
        }
        // A prefix that has no neighbour keeps a query of its own; there is room now.
        if let Some(slot) = homeless {
            let follower = self.follower(inner, slot.query.clone(), vec![slot], None);
            inner.followers.push(follower);
        }
    }

    fn follower(
        self: &Arc<Self>,
        inner: &mut Inner,
        query: Query,
        slots: Vec<Arc<Slot>>,
        start: Option<(Arc<State>, u64)>,
    ) -> Follower {
        let id = inner.next;
        inner.next += 1;
        let (state, index) = start.map_or((None, 0), |(state, index)| (Some(state), index));
        let kick = Arc::new(Notify::new());
        let (hub, client) = (Arc::downgrade(self), self.client.clone());
        let following = Following { hub, client, id, query: query.clone(), index, kick: kick.clone() };
        let task = tokio::spawn(following.run()).abort_handle();
        Follower { id, query, merged: false, slots, state, kick, task }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn find(&mut self, id: u64) -> Option<&mut Follower> {
        self.followers.iter_mut().find(|one| one.id == id)
    }
}

impl Follower {
    /// Feeds one more watch, which listed for itself.
    fn join(&mut self, slot: Arc<Slot>) {
        // What this query showed since that listing it will not show again unless it is asked to.
        if self.state.as_ref().is_some_and(|state| !slot.adopt(state)) {
            self.kick.notify_one();
        }
        self.slots.push(slot);
    }
}

/// Groups strings by what they begin with, into `groups` groups at most, and gives what each group of several has in
/// common: as much as possible.
fn common_prefixes(mut starts: Vec<&str>, groups: usize) -> Vec<String> {
    starts.sort_unstable();
    let shared: Vec<usize> = starts.windows(2).map(|pair| common(pair[0], pair[1]).len()).collect();
    // Neighbours that share least are parted.
    let mut partings: Vec<usize> = (0..shared.len()).collect();
    partings.sort_by_key(|at| shared[*at]);
    partings.truncate(groups - 1);
    partings.sort_unstable();
    let mut prefixes = Vec::new();
    let mut first = 0;
    for end in partings.into_iter().map(|at| at + 1).chain([starts.len()]) {
        // In sorted order, what the first and the last have in common, all between them have.
        if end - first > 1 {
            prefixes.push(common(starts[first], starts[end - 1]).to_owned());
        }
        first = end;
    }
    prefixes
}

/// What two strings both begin with.
fn common<'a>(one: &'a str, other: &str) -> &'a str {
    let length = one.chars().zip(other.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
    &one[..length]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_that_share_most_are_grouped() {
        let starts = vec!["b/2/", "a/1/", "a/2/", "b/1/", "c/"];
        assert_eq!(common_prefixes(starts.clone(), 3), ["a/", "b/"]);
        assert_eq!(common_prefixes(starts, 1), [""]);
    }

    #[test]
    fn a_thousand_prefixes_become_a_few() {
        let starts: Vec<String> = (0..1000).map(|n| format!("app/{n:03}/")).collect();
        let prefixes = common_prefixes(starts.iter().map(String::as_str).collect(), 20);
        assert!(prefixes.len() <= 20);
        assert!(prefixes.iter().all(|prefix| prefix.starts_with("app/")), "{prefixes:?}");
        for start in &starts {
            assert!(prefixes.iter().any(|prefix| start.starts_with(prefix)), "{start}");
        }
    }

    #[test]
    fn what_is_common_ends_between_characters() {
        assert_eq!(common("aé", "aè"), "a");
        assert_eq!(common("ab", "ab"), "ab");
        assert_eq!(common("", "ab"), "");
    }

    #[test]
    fn a_query_covers_what_it_sees() {
        let prefix = |text: &str| Query::Prefix(text.to_owned());
        let key = |text: &str| Query::Key(text.to_owned());
        assert!(prefix("a").covers(&prefix("ab")) && prefix("a").covers(&key("a")) && key("a").covers(&key("a")));
        assert!(!prefix("ab").covers(&prefix("a")) && !key("a").covers(&prefix("a")) && !key("a").covers(&key("ab")));
    }
}
