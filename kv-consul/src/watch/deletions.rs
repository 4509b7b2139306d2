//! Finds when keys were deleted, because a listing only shows that they are gone.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use kv_core::EventType;
use tokio::time::{Instant, timeout_at};

use super::diff::Change;
use crate::api::path;
use crate::transport::client::{Client, SMALL};

/// The most requests for the deletions of one answer.
const REQUESTS: usize = 32;

/// The most of them in flight at a time, so that other calls have room.
const IN_FLIGHT: usize = 8;

/// The time for all of them. Other events of the answer wait for them.
const TIME: Duration = Duration::from_millis(250);

/// The index of the last write or deletion under each requested prefix; `None` if the request failed.
type Indices = HashMap<String, Option<u64>>;

/// Finds the indices of deletions that one answer shows together with other changes, so that events are in order.
///
/// Consul keeps the index of each deletion for a while, and reports the largest one under a prefix. A whole key is such
/// a prefix, and a tree that was deleted at once is kept as its prefix. If nothing is kept, Consul reports the index of
/// the whole store. An index that is found is never smaller than the deletion's own; if none is found in time, the
/// deletion keeps the index of the answer.
pub(super) async fn date_deletions(client: &Client, changes: &mut [Change], after: u64, until: u64) {
    let undated = undated(changes);
    if undated.is_empty() || undated.len() == changes.len() {
        return;
    }
    let deadline = Instant::now() + TIME;
    let mut known = Indices::new();
    loop {
        let dated = dated(changes, &undated, &known, after..until);
        let room = REQUESTS - known.len();
        let asked = ask(client, dated.unknown.into_iter().take(room), &mut known);
        if room == 0 || !matches!(timeout_at(deadline, asked).await, Ok(1..)) {
            for (at, index) in dated.found {
                changes[at].index = index;
            }
            return;
        }
    }
}

/// Requests the indices of prefixes. Returns the number of requests.
async fn ask(client: &Client, prefixes: impl Iterator<Item = String>, known: &mut Indices) -> usize {
    let last_index = async |prefix: String| {
        let target = client.target(&path::kv(&prefix), &["keys", "separator=/", "consistent"]);
        let index = client.get(target, SMALL).await.ok().and_then(|answer| answer.index);
        (prefix, index)
    };
    let before = known.len();
    let mut answers = stream::iter(prefixes.map(last_index)).buffer_unordered(IN_FLIGHT);
    while let Some((prefix, index)) = answers.next().await {
        known.insert(prefix, index);
    }
    known.len() - before
}

/// What is known about deletions.
struct Dated {
    /// Deletions with their indices.
    found: Vec<(usize, u64)>,
    /// The prefixes whose indices would date further deletions.
    unknown: BTreeSet<String>,
}

/// Dates deletions with the indices known so far: that of the key, or else those of the directories above it.
fn dated(changes: &[Change], undated: &[usize], known: &Indices, between: Range<u64>) -> Dated {
    let (mut found, mut hidden, mut unknown) = (Vec::new(), Vec::new(), BTreeSet::new());
    for at in undated {
        let key = changes[*at].key.as_str();
        for prefix in std::iter::successors(Some(key), |prefix| parent(prefix)) {
            let Some(index) = known.get(prefix) else {
                unknown.extend(path::is_queryable(prefix).then(|| prefix.to_owned()));
                break;
            };
            let Some(index) = *index else { break };
            if prefix == key && index <= between.end && is_of_another(changes, key, index) {
                hidden.push(key);
                break;
            }
            if index > between.start && index < between.end {
                found.push((*at, index));
                break;
            }
        }
    }
    // A key and what is below it may have been deleted together, and then get the same index.
    found.retain(|(at, _)| !hidden.iter().any(|key| changes[*at].key.starts_with(key)));
    Dated { found, unknown }
}

/// The directory of a key or directory, with its `/`.
fn parent(prefix: &str) -> Option<&str> {
    let bare = prefix.strip_suffix('/').unwrap_or(prefix);
    bare.rfind('/').map(|slash| &bare[..=slash])
}

/// The positions of the deletions of keys that were not created again. The entries of locks are left out.
pub(super) fn undated(changes: &[Change]) -> Vec<usize> {
    let is_undated = |at: usize| {
        let change = &changes[at];
        let again = changes.get(at + 1).is_some_and(|next| next.key == change.key);
        change.event_type == EventType::Delete && !change.is_lock && !again
    };
    (0..changes.len()).filter(|at| is_undated(*at)).collect()
}

/// Whether an index may be that of another entry whose key begins with this one. Such an index hides that of the
/// deletion.
fn is_of_another(changes: &[Change], key: &str, index: u64) -> bool {
    let mut written = changes.iter().filter(|change| change.row.is_some());
    written.any(|change| change.index >= index && change.key.starts_with(key))
}

#[cfg(test)]
mod tests {
    use EventType::{Create, Delete, Update};

    use super::*;

    fn change(key: &str, event_type: EventType, index: u64) -> Change {
        Change { key: key.to_owned(), event_type, index, row: (event_type != Delete).then_some(0), is_lock: false }
    }

    #[test]
    fn only_deletions_of_keys_that_are_gone_lack_an_index() {
        let changes = [change("a", Delete, 9), change("b", Delete, 5), change("b", Create, 6), change("c", Update, 9)];
        assert_eq!(undated(&changes), [0]);
    }

    #[test]
    fn a_deletion_is_dated_by_its_key_or_a_directory_above() {
        let changes = [change("d/a", Delete, 9), change("d/b/c", Delete, 9), change("e", Create, 8)];
        let date = |known: &[(&str, u64)]| {
            let known = known.iter().map(|(prefix, index)| ((*prefix).to_owned(), Some(*index))).collect();
            let Dated { found, unknown } = dated(&changes, &[0, 1], &known, 3..9);
            (found, unknown.into_iter().collect::<Vec<_>>())
        };
        assert_eq!(date(&[]), (vec![], vec!["d/a".to_owned(), "d/b/c".to_owned()]));
        // 20 is the index of the whole store.
        assert_eq!(date(&[("d/a", 5), ("d/b/c", 20)]), (vec![(0, 5)], vec!["d/b/".to_owned()]));
        assert_eq!(date(&[("d/a", 5), ("d/b/c", 20), ("d/b/", 7)]), (vec![(0, 5), (1, 7)], vec![]));
    }

    #[test]
    fn parents_are_directories() {
        assert_eq!(parent("a/b/c"), Some("a/b/"));
        assert_eq!(parent("a/b/"), Some("a/"));
        assert_eq!(parent("a/"), None);
        assert_eq!(parent("a"), None);
    }

    #[test]
    fn a_later_entry_hides_the_deletion_of_a_prefix_of_its_key() {
        let changes = [change("a", Delete, 9), change("ab", Update, 7)];
        assert!(is_of_another(&changes, "a", 7));
        assert!(!is_of_another(&changes, "a", 8));
        assert!(!is_of_another(&changes, "b", 7));
    }
}
