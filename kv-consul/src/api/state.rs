//! The indices of all entries in a scope at one moment. This file uses nothing else of the crate, so that the benchmark
//! `diff` can compile it alone.

use std::ops::Range;

/// The indices of all entries under a prefix at one moment, sorted by key. It holds no values, and one allocation holds
/// all keys.
#[derive(Debug, Default)]
pub(crate) struct State {
    keys: String,
    rows: Vec<Row>,
    /// Which rows are entries of locks, in ascending order. There are few of them.
    locks: Vec<usize>,
}

#[derive(Debug)]
struct Row {
    /// Where in `keys` this row's key ends and the next one begins.
    end: usize,
    create: u64,
    modify: u64,
}

/// The keys that a read or a watch covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope<'a> {
    /// All keys that begin with a string.
    Prefix(&'a str),
    /// One key.
    Key(&'a str),
}

impl<'a> Scope<'a> {
    /// Whether a key is in the scope.
    pub(crate) fn has(self, key: &str) -> bool {
        match self {
            Self::Prefix(prefix) => key.starts_with(prefix),
            Self::Key(only) => key == only,
        }
    }

    /// What every key of the scope begins with.
    pub(crate) fn start(self) -> &'a str {
        match self {
            Self::Prefix(text) | Self::Key(text) => text,
        }
    }

    /// Whether the entries of locks are left out. A prefix selects data; a single key is always that of a lock's entry.
    pub(crate) fn hides_locks(self) -> bool {
        matches!(self, Self::Prefix(_))
    }
}

/// A [`Scope`] that owns its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ScopeBuf {
    /// All keys that begin with a string.
    Prefix(String),
    /// One key.
    Key(String),
}

impl ScopeBuf {
    pub(crate) fn as_scope(&self) -> Scope<'_> {
        match self {
            Self::Prefix(prefix) => Scope::Prefix(prefix),
            Self::Key(key) => Scope::Key(key),
        }
    }

    /// What every key of the scope begins with.
    pub(crate) fn start(&self) -> &str {
        self.as_scope().start()
    }

    /// Whether every key of the other scope is in this one.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        match self {
            Self::Prefix(prefix) => other.start().starts_with(prefix.as_str()),
            Self::Key(_) => self == other,
        }
    }
}

impl State {
    pub(crate) fn with_capacity(rows: usize) -> Self {
        Self { keys: String::with_capacity(rows * 32), rows: Vec::with_capacity(rows), locks: Vec::new() }
    }

    /// Adds a row. Its key must sort after the keys of all rows so far.
    pub(crate) fn push(&mut self, key: &str, create: u64, modify: u64) {
        self.keys.push_str(key);
        self.rows.push(Row { end: self.keys.len(), create, modify });
    }

    /// Adds the row of a lock's entry, as [`push`](Self::push) does.
    pub(crate) fn push_lock(&mut self, key: &str, create: u64, modify: u64) {
        self.locks.push(self.rows.len());
        self.push(key, create, modify);
    }

    /// Whether a row is the entry of a lock, which no watch of data shows ([clause L10](kv_core::contract::CLAUSES#L10)).
    pub(crate) fn is_lock(&self, row: usize) -> bool {
        self.locks.binary_search(&row).is_ok()
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(crate) fn key(&self, row: usize) -> &str {
        let start = row.checked_sub(1).map_or(0, |before| self.rows[before].end);
        &self.keys[start..self.rows[row].end]
    }

    pub(crate) fn create_index(&self, row: usize) -> u64 {
        self.rows[row].create
    }

    pub(crate) fn modify_index(&self, row: usize) -> u64 {
        self.rows[row].modify
    }

    /// The rows of a scope, which are adjacent.
    pub(crate) fn rows(&self, scope: Scope<'_>) -> Range<usize> {
        let start = self.partition(0, |key| key < scope.start());
        start..self.partition(start, |key| scope.has(key))
    }

    /// The first row from `start` on for which `before` is false.
    fn partition(&self, start: usize, before: impl Fn(&str) -> bool) -> usize {
        let (mut low, mut high) = (start, self.rows.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if before(self.key(middle)) { low = middle + 1 } else { high = middle }
        }
        low
    }

    /// Whether both states have the same keys with the same indices in a scope.
    pub(crate) fn is_same(&self, other: &Self, scope: Scope<'_>) -> bool {
        let (ours, theirs) = (self.rows(scope), other.rows(scope));
        ours.len() == theirs.len()
            && ours.zip(theirs).all(|(a, b)| {
                (self.rows[a].create, self.rows[a].modify) == (other.rows[b].create, other.rows[b].modify)
                    && self.key(a) == other.key(b)
            })
    }
}

#[cfg(test)]
impl State {
    /// A state with these keys, each with its creation and modification index.
    pub(crate) fn of(rows: &[(&str, u64, u64)]) -> Self {
        let mut state = Self::default();
        for (key, create, modify) in rows {
            state.push(key, *create, *modify);
        }
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_the_same_if_keys_and_indices_are() {
        let one = State::of(&[("a", 1, 1)]);
        assert!(one.is_same(&State::of(&[("a", 1, 1)]), Scope::Prefix("")));
        for other in [State::of(&[("b", 1, 1)]), State::of(&[("a", 2, 2)]), State::of(&[("a", 1, 2)]), State::of(&[])] {
            assert!(!one.is_same(&other, Scope::Prefix("")));
        }
    }

    #[test]
    fn a_scope_covers_every_narrower_one() {
        let prefix = |text: &str| ScopeBuf::Prefix(text.to_owned());
        let key = |text: &str| ScopeBuf::Key(text.to_owned());
        assert!(prefix("a").covers(&prefix("ab")) && prefix("a").covers(&key("a")) && key("a").covers(&key("a")));
        assert!(!prefix("ab").covers(&prefix("a")) && !key("a").covers(&prefix("a")) && !key("a").covers(&key("ab")));
    }
}
