//! The changes between two states of one scope. It is pure, so that every case can be tested.

use std::cmp::Ordering;

use kv_core::EventType;

use crate::api::state::{Scope, State};

/// One change of one key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) key: String,
    pub(crate) event_type: EventType,
    pub(crate) index: u64,
    /// The row of the newer state that has the value; none for a deletion.
    pub(crate) row: Option<usize>,
    /// Whether it is a change of a lock's entry, which is not data.
    pub(crate) is_lock: bool,
}

/// The changes in a scope from `older` to `newer`, which was seen at `index`, sorted by key.
///
/// A key that was deleted and created again has another creation index. That gives a deletion and then a creation. The
/// index of that deletion is unknown: it is smaller than the creation's, or equal if one transaction did both.
pub(crate) fn changes(older: &State, newer: &State, scope: Scope<'_>, index: u64) -> Vec<Change> {
    let (ours, theirs) = (older.rows(scope), newer.rows(scope));
    let (mut at, mut to) = (ours.start, theirs.start);
    let mut changes = Vec::new();
    let mut add = |key: &str, event_type, index, row, is_lock| {
        changes.push(Change { key: key.to_owned(), event_type, index, row, is_lock });
    };
    while at < ours.end || to < theirs.end {
        let which = match (at < ours.end, to < theirs.end) {
            (true, true) => older.key(at).cmp(newer.key(to)),
            (true, false) => Ordering::Less,
            _ => Ordering::Greater,
        };
        match which {
            Ordering::Less => add(older.key(at), EventType::Delete, index, None, older.is_lock(at)),
            Ordering::Greater => {
                add(newer.key(to), EventType::Create, newer.modify_index(to), Some(to), newer.is_lock(to));
            }
            Ordering::Equal => {
                let (created, modified) = (newer.create_index(to), newer.modify_index(to));
                let (was_lock, is_lock) = (older.is_lock(at), newer.is_lock(to));
                if older.create_index(at) != created {
                    let before = Some(created.saturating_sub(1)).filter(|before| *before > older.modify_index(at));
                    add(newer.key(to), EventType::Delete, before.unwrap_or(created), None, was_lock);
                    add(newer.key(to), EventType::Create, modified, Some(to), is_lock);
                } else if was_lock != is_lock {
                    // A foreign program made data of a lock's entry, or the other way round.
                    add(newer.key(to), EventType::Delete, modified, None, was_lock);
                    add(newer.key(to), EventType::Create, modified, Some(to), is_lock);
                } else if older.modify_index(at) != modified {
                    add(newer.key(to), EventType::Update, modified, Some(to), is_lock);
                }
            }
        }
        at += usize::from(which != Ordering::Greater);
        to += usize::from(which != Ordering::Less);
    }
    changes
}

/// Whether a watch of a scope shows any of these changes, which are in that scope.
pub(crate) fn concern(changes: &[Change], scope: Scope<'_>) -> bool {
    changes.iter().any(|change| !(change.is_lock && scope.hides_locks()))
}

/// The part of sorted changes that is in a scope.
pub(crate) fn of_scope<'a>(changes: &'a [Change], scope: Scope<'_>) -> &'a [Change] {
    let start = changes.partition_point(|change| change.key.as_str() < scope.start());
    let length = changes[start..].partition_point(|change| scope.has(&change.key));
    &changes[start..start + length]
}

#[cfg(test)]
mod tests {
    use EventType::{Create, Delete, Update};

    use super::*;

    fn changes(old: &[(&str, u64, u64)], new: &[(&str, u64, u64)]) -> Vec<(String, EventType, u64)> {
        let changes = super::changes(&State::of(old), &State::of(new), Scope::Prefix(""), 100);
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
    fn rows_are_those_of_the_newer_state() {
        let newer = State::of(&[("a", 1, 1), ("b", 2, 2)]);
        let changes = super::changes(&State::of(&[("a", 1, 1)]), &newer, Scope::Prefix(""), 2);
        assert_eq!(newer.key(changes[0].row.expect("a creation")), "b");
        assert_eq!((newer.len(), newer.modify_index(0), newer.modify_index(1)), (2, 1, 2));
    }

    #[test]
    fn changes_of_locks_concern_no_data() {
        let lock = |create, modify| {
            let mut state = State::default();
            state.push_lock("a/.lock", create, modify);
            state
        };
        let compare = |older: &State, newer: &State| -> Vec<(EventType, bool)> {
            let changes = super::changes(older, newer, Scope::Prefix(""), 9);
            assert_eq!(concern(&changes, Scope::Prefix("")), changes.iter().any(|change| !change.is_lock));
            assert!(concern(&changes, Scope::Key("a/.lock")));
            changes.into_iter().map(|change| (change.event_type, change.is_lock)).collect()
        };
        let (none, data) = (State::default(), State::of(&[("a/.lock", 1, 2)]));
        assert_eq!(compare(&none, &lock(1, 1)), [(Create, true)]);
        assert_eq!(compare(&lock(1, 1), &lock(1, 2)), [(Update, true)]);
        assert_eq!(compare(&lock(1, 1), &lock(3, 3)), [(Delete, true), (Create, true)]);
        assert_eq!(compare(&lock(1, 1), &none), [(Delete, true)]);
        assert_eq!(compare(&lock(1, 1), &data), [(Delete, true), (Create, false)]);
        assert_eq!(compare(&data, &lock(1, 3)), [(Delete, false), (Create, true)]);
    }

    #[test]
    fn changes_outside_the_scope_are_left_out() {
        let old = State::of(&[("a", 1, 1), ("a/b", 1, 1), ("ab", 1, 1), ("b", 1, 1)]);
        let new = State::of(&[("a", 1, 2), ("a/b", 1, 3), ("ab", 1, 4), ("b", 1, 5)]);
        let keys =
            |scope| -> Vec<String> { super::changes(&old, &new, scope, 9).into_iter().map(|one| one.key).collect() };
        assert_eq!(keys(Scope::Prefix("a")), ["a", "a/b", "ab"]);
        assert_eq!(keys(Scope::Prefix("a/")), ["a/b"]);
        assert_eq!(keys(Scope::Key("a")), ["a"]);
        assert_eq!(keys(Scope::Key("aa")), [""; 0]);
        assert_eq!(keys(Scope::Prefix("c")), [""; 0]);
        assert!(old.is_same(&new, Scope::Prefix("c")));
        assert!(!old.is_same(&new, Scope::Key("b")));
        let all = super::changes(&old, &new, Scope::Prefix(""), 9);
        assert_eq!(of_scope(&all, Scope::Prefix("a/")).len(), 1);
        assert_eq!(of_scope(&all, Scope::Key("a")).len(), 1);
        assert_eq!(of_scope(&all, Scope::Prefix("a")).len(), 3);
        assert!(of_scope(&all, Scope::Prefix("x")).is_empty());
    }
}
