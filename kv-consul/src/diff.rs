//! What changed between two listings of one prefix: pure, so that every case can be tested.

use std::cmp::Ordering;
use std::ops::Range;

use kv_core::EventType;

/// The indices of every entry under a prefix at one moment, sorted by key; no values, and one allocation for all keys.
#[derive(Debug, Default)]
pub(crate) struct State {
    keys: String,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    /// Where in `keys` the row's key ends, and the next one's begins.
    end: usize,
    create: u64,
    modify: u64,
}

/// One change of one key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) key: String,
    pub(crate) event_type: EventType,
    pub(crate) index: u64,
    /// The row of the newer state that holds the value; none for a deletion.
    pub(crate) row: Option<usize>,
}

/// Which keys are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope<'a> {
    /// Those that begin with a string.
    Prefix(&'a str),
    /// One alone.
    Key(&'a str),
}

impl Scope<'_> {
    /// Whether a key is meant.
    pub(crate) fn has(self, key: &str) -> bool {
        match self {
            Self::Prefix(prefix) => key.starts_with(prefix),
            Self::Key(only) => key == only,
        }
    }

    fn start(&self) -> &str {
        match self {
            Self::Prefix(text) | Self::Key(text) => text,
        }
    }
}

impl State {
    pub(crate) fn with_capacity(rows: usize) -> Self {
        Self { keys: String::with_capacity(rows * 32), rows: Vec::with_capacity(rows) }
    }

    /// Adds a row; its key must come after all the others.
    pub(crate) fn push(&mut self, key: &str, create: u64, modify: u64) {
        self.keys.push_str(key);
        self.rows.push(Row { end: self.keys.len(), create, modify });
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(crate) fn key(&self, row: usize) -> &str {
        let start = row.checked_sub(1).map_or(0, |before| self.rows[before].end);
        &self.keys[start..self.rows[row].end]
    }

    pub(crate) fn modify_index(&self, row: usize) -> u64 {
        self.rows[row].modify
    }

    /// The rows of a scope, which lie next to one another.
    fn rows(&self, scope: Scope<'_>) -> Range<usize> {
        let start = self.partition(0, |key| key < scope.start());
        start..self.partition(start, |key| scope.has(key))
    }

    /// The first row from `start` on for which `before` does not hold.
    fn partition(&self, start: usize, before: impl Fn(&str) -> bool) -> usize {
        let (mut low, mut high) = (start, self.rows.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if before(self.key(middle)) { low = middle + 1 } else { high = middle }
        }
        low
    }

    /// Whether a scope looks the same in both.
    pub(crate) fn is_same(&self, other: &Self, scope: Scope<'_>) -> bool {
        let (ours, theirs) = (self.rows(scope), other.rows(scope));
        ours.len() == theirs.len()
            && ours.zip(theirs).all(|(a, b)| {
                (self.rows[a].create, self.rows[a].modify) == (other.rows[b].create, other.rows[b].modify)
                    && self.key(a) == other.key(b)
            })
    }

    /// What of a scope changed from `self` to `newer`, which was seen at `index`; sorted by key.
    ///
    /// A key that was deleted and created again has another creation index: that gives both, in this order. The
    /// deletion's own index is not known; it is smaller than that of the creation, or equal if they came together.
    pub(crate) fn changes(&self, newer: &Self, scope: Scope<'_>, index: u64) -> Vec<Change> {
        let (ours, theirs) = (self.rows(scope), newer.rows(scope));
        let (mut at, mut to) = (ours.start, theirs.start);
        let mut changes = Vec::new();
        let mut add = |key: &str, event_type, index, row| {
            changes.push(Change { key: key.to_owned(), event_type, index, row });
        };
        while at < ours.end || to < theirs.end {
            let order = match (at < ours.end, to < theirs.end) {
                (true, true) => self.key(at).cmp(newer.key(to)),
                (true, false) => Ordering::Less,
                _ => Ordering::Greater,
            };
            match order {
                Ordering::Less => add(self.key(at), EventType::Delete, index, None),
                Ordering::Greater => add(newer.key(to), EventType::Create, newer.rows[to].modify, Some(to)),
                Ordering::Equal => {
                    let (old, new) = (&self.rows[at], &newer.rows[to]);
                    if old.create != new.create {
                        let before = Some(new.create.saturating_sub(1)).filter(|before| *before > old.modify);
                        add(newer.key(to), EventType::Delete, before.unwrap_or(new.create), None);
                        add(newer.key(to), EventType::Create, new.modify, Some(to));
                    } else if old.modify != new.modify {
                        add(newer.key(to), EventType::Update, new.modify, Some(to));
                    }
                }
            }
            at += usize::from(order != Ordering::Greater);
            to += usize::from(order != Ordering::Less);
        }
        changes
    }
}

/// The part of sorted changes that a scope has.
pub(crate) fn of_scope<'a>(changes: &'a [Change], scope: Scope<'_>) -> &'a [Change] {
    let start = changes.partition_point(|change| change.key.as_str() < scope.start());
    let length = changes[start..].partition_point(|change| scope.has(&change.key));
    &changes[start..start + length]
}

#[cfg(test)]
mod tests {
    use EventType::{Create, Delete, Update};

    use super::*;

    fn state(rows: &[(&str, u64, u64)]) -> State {
        let mut state = State::default();
        for (key, create, modify) in rows {
            state.push(key, *create, *modify);
        }
        state
    }

    fn changes(old: &[(&str, u64, u64)], new: &[(&str, u64, u64)]) -> Vec<(String, EventType, u64)> {
        let changes = state(old).changes(&state(new), Scope::Prefix(""), 100);
        changes.into_iter().map(|change| (change.key, change.event_type, change.index)).collect()
    }

    fn change(key: &str, event_type: EventType, index: u64) -> (String, EventType, u64) {
        (key.to_owned(), event_type, index)
    }

    #[test]
    fn nothing_changed() {
        assert!(changes(&[], &[]).is_empty());
        assert!(changes(&[("a", 1, 2)], &[("a", 1, 2)]).is_empty());
    }

    #[test]
    fn creations_updates_and_deletions() {
        let old = [("b", 1, 1), ("c", 2, 2), ("e", 3, 3)];
        let new = [("a", 9, 9), ("b", 1, 8), ("e", 3, 3), ("f", 4, 10)];
        let expected =
            [change("a", Create, 9), change("b", Update, 8), change("c", Delete, 100), change("f", Create, 10)];
        assert_eq!(changes(&old, &new), expected);
    }

    #[test]
    fn a_key_deleted_and_created_again_gives_both() {
        assert_eq!(changes(&[("a", 1, 5)], &[("a", 7, 7)]), [change("a", Delete, 6), change("a", Create, 7)]);
        assert_eq!(changes(&[("a", 1, 6)], &[("a", 7, 9)]), [change("a", Delete, 7), change("a", Create, 9)]);
    }

    #[test]
    fn an_older_index_of_the_same_key_is_a_change() {
        assert_eq!(changes(&[("a", 1, 5)], &[("a", 1, 3)]), [change("a", Update, 3)]);
    }

    #[test]
    fn rows_point_at_the_newer_state() {
        let newer = state(&[("a", 1, 1), ("b", 2, 2)]);
        let changes = state(&[("a", 1, 1)]).changes(&newer, Scope::Prefix(""), 2);
        assert_eq!(newer.key(changes[0].row.expect("a creation")), "b");
        assert_eq!((newer.len(), newer.modify_index(0), newer.modify_index(1)), (2, 1, 2));
    }

    #[test]
    fn a_scope_sees_its_own_keys_alone() {
        let old = state(&[("a", 1, 1), ("a/b", 1, 1), ("ab", 1, 1), ("b", 1, 1)]);
        let new = state(&[("a", 1, 2), ("a/b", 1, 3), ("ab", 1, 4), ("b", 1, 5)]);
        let keys = |scope| -> Vec<String> { old.changes(&new, scope, 9).into_iter().map(|one| one.key).collect() };
        assert_eq!(keys(Scope::Prefix("a")), ["a", "a/b", "ab"]);
        assert_eq!(keys(Scope::Prefix("a/")), ["a/b"]);
        assert_eq!(keys(Scope::Key("a")), ["a"]);
        assert_eq!(keys(Scope::Key("aa")), [""; 0]);
        assert_eq!(keys(Scope::Prefix("c")), [""; 0]);
        assert!(old.is_same(&new, Scope::Prefix("c")));
        assert!(!old.is_same(&new, Scope::Key("b")));
        let all = old.changes(&new, Scope::Prefix(""), 9);
        assert_eq!(of_scope(&all, Scope::Prefix("a/")).len(), 1);
        assert_eq!(of_scope(&all, Scope::Key("a")).len(), 1);
        assert_eq!(of_scope(&all, Scope::Prefix("a")).len(), 3);
        assert!(of_scope(&all, Scope::Prefix("x")).is_empty());
    }

    #[test]
    fn sameness_looks_at_keys_and_indices() {
        let one = state(&[("a", 1, 1)]);
        assert!(one.is_same(&state(&[("a", 1, 1)]), Scope::Prefix("")));
        for other in [state(&[("b", 1, 1)]), state(&[("a", 2, 2)]), state(&[("a", 1, 2)]), state(&[])] {
            assert!(!one.is_same(&other, Scope::Prefix("")));
        }
    }
}
