//! Assigns watches to queries: one query for each prefix, or fewer, wider queries if there would be too many.

use std::sync::Arc;

use kv_core::backend::Snapshot;
use kv_core::{Error, Result};

use super::feed::{Feeds, Inner, Start};
use super::history::History;
use super::query::Query;
use super::slot::Slot;
use super::subscription::Subscription;
use crate::api::listing::Listing;
use crate::api::path;
use crate::api::state::{ScopeBuf, State};
use crate::read;
use crate::shared::Shared;
use crate::transport::client::Client;

/// The watches of one runtime.
pub(crate) struct Hub {
    shared: Arc<Shared>,
    client: Arc<Client>,
    feeds: Arc<Feeds>,
}

impl Hub {
    pub(crate) fn new(shared: Arc<Shared>) -> Result<Self> {
        let client = shared.client()?;
        Ok(Self { shared, client, feeds: Arc::default() })
    }

    /// Watches a prefix for changes with an index above `after`. With 0, it watches from now on.
    ///
    /// # Errors
    /// [`Error::Compacted`] if no listing of that index is remembered, unless it is certain that nothing has changed.
    pub(crate) async fn watch(&self, history: &History, prefix: &str, after: u64) -> Result<Subscription> {
        let base = read::first_listing(&self.shared, prefix).await?;
        let older = if after == 0 { None } else { history.recent.recall(prefix, after) };
        // Consul keeps no record of deletions. Without the older listing we can only verify that nothing changed. A
        // prefix whose index is smaller may have been restored from a snapshot, or Consul forgot its last deletion
        // (clause E8).
        let is_unchanged = base.index == after && history.moments.is_recent(after);
        if after != 0 && older.is_none() && !is_unchanged {
            return Err(Error::Compacted { after, oldest: Some(base.index).filter(|oldest| *oldest > after) });
        }
        Ok(self.subscribe(ScopeBuf::Prefix(prefix.to_owned()), base, after, older))
    }

    /// Lists a prefix, and watches it from there.
    pub(crate) async fn observe(&self, history: &History, prefix: &str) -> Result<(Snapshot, Subscription)> {
        let base = read::first_listing(&self.shared, prefix).await?;
        history.recent.remember(prefix, base.index, base.state.clone());
        let snapshot = Snapshot { entries: base.entries()?, index: base.index };
        Ok((snapshot, self.subscribe(ScopeBuf::Prefix(prefix.to_owned()), base, 0, None)))
    }

    /// Watches the entry of one lock, from a listing of it.
    pub(crate) fn watch_key(&self, key: &str, base: Listing) -> Subscription {
        self.subscribe(ScopeBuf::Key(key.to_owned()), base, 0, None)
    }

    /// Watches a scope, from a listing of it. Events have an index above `after`.
    ///
    /// If the state of an older listing is given, the changes since then come first.
    fn subscribe(&self, scope: ScopeBuf, base: Listing, after: u64, older: Option<Arc<State>>) -> Subscription {
        let slot = Arc::new(Slot::new(scope, &base));
        let start = (base.state.clone(), base.index);
        if let Some(older) = older {
            slot.step_back(older, after, base);
        }
        let starts = place(&mut self.feeds.lock(), &slot, start, self.client.queries());
        Query::spawn_all(&self.feeds, &self.client, starts);
        Subscription::new(slot, self.feeds.clone(), after)
    }
}

/// Adds a watch to a feed that covers it, or adds feeds for it. There are at most about `queries` queries.
///
/// Each query occupies a connection, and an agent limits the connections from one address.
fn place(inner: &mut Inner, slot: &Arc<Slot>, start: (Arc<State>, u64), queries: usize) -> Vec<Start> {
    let covering =
        inner.feeds.iter_mut().find(|feed| feed.scope == slot.scope || (feed.merged && feed.scope.covers(&slot.scope)));
    if let Some(feed) = covering {
        feed.join(slot.clone());
        Vec::new()
    } else if inner.feeds.iter().filter(|feed| feed.is_watched()).count() < queries {
        vec![inner.add(slot.scope.clone(), vec![slot.clone()], Some(start))]
    } else {
        merge(inner, slot.clone(), (queries / 2).max(1))
    }
}

/// Replaces neighbouring queries by wider ones until about so many are left, one of them for `slot`.
fn merge(inner: &mut Inner, slot: Arc<Slot>, left: usize) -> Vec<Start> {
    let watched = inner.feeds.iter().filter(|feed| feed.is_watched()).map(|feed| feed.scope.start());
    let prefixes = common_prefixes(watched.chain([slot.scope.start()]).collect(), left);
    let (mut starts, mut unplaced) = (Vec::new(), Some(slot));
    for prefix in prefixes {
        let scope = ScopeBuf::Prefix(path::queryable(&prefix).to_owned());
        if inner.is_refused(scope.start()) {
            continue;
        }
        let covered = inner.feeds.iter_mut().filter(|feed| scope.covers(&feed.scope));
        let mut slots: Vec<Arc<Slot>> = covered.flat_map(|feed| std::mem::take(&mut feed.slots)).collect();
        slots.extend(unplaced.take_if(|slot| scope.covers(&slot.scope)));
        if !slots.is_empty() {
            starts.push(inner.add_merged(scope, slots));
        }
    }
    // A prefix without neighbours gets a query of its own. There is room now.
    if let Some(slot) = unplaced {
        starts.push(inner.add(slot.scope.clone(), vec![slot], None));
    }
    starts
}

/// Puts strings with common prefixes into at most `groups` groups. Returns the common prefix of each group that has
/// several members, as long as possible.
fn common_prefixes(mut starts: Vec<&str>, groups: usize) -> Vec<String> {
    starts.sort_unstable();
    let shared: Vec<usize> = starts.windows(2).map(|pair| common(pair[0], pair[1]).len()).collect();
    // Groups are separated where adjacent strings have the shortest prefixes in common.
    let mut partings: Vec<usize> = (0..shared.len()).collect();
    partings.sort_by_key(|at| shared[*at]);
    partings.truncate(groups - 1);
    partings.sort_unstable();
    let mut prefixes = Vec::new();
    let mut first = 0;
    for end in partings.into_iter().map(|at| at + 1).chain([starts.len()]) {
        // In sorted order, all strings between two others share the common prefix of those two.
        if end - first > 1 {
            prefixes.push(common(starts[first], starts[end - 1]).to_owned());
        }
        first = end;
    }
    prefixes
}

/// The longest common prefix of two strings.
fn common<'a>(one: &'a str, other: &str) -> &'a str {
    let length = one.chars().zip(other.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
    &one[..length]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_with_the_longest_common_prefixes_are_grouped() {
        let starts = vec!["b/2/", "a/1/", "a/2/", "b/1/", "c/"];
        assert_eq!(common_prefixes(starts.clone(), 3), ["a/", "b/"]);
        assert_eq!(common_prefixes(starts, 1), [""]);
    }

    #[test]
    fn a_thousand_prefixes_become_few() {
        let starts: Vec<String> = (0..1000).map(|n| format!("app/{n:03}/")).collect();
        let prefixes = common_prefixes(starts.iter().map(String::as_str).collect(), 20);
        assert!(prefixes.len() <= 20);
        assert!(prefixes.iter().all(|prefix| prefix.starts_with("app/")), "{prefixes:?}");
        for start in &starts {
            assert!(prefixes.iter().any(|prefix| start.starts_with(prefix)), "{start}");
        }
    }

    #[test]
    fn a_common_prefix_ends_between_characters() {
        assert_eq!(common("aé", "aè"), "a");
        assert_eq!(common("ab", "ab"), "ab");
        assert_eq!(common("", "ab"), "");
    }
}
