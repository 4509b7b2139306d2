//! When keys were deleted: a listing only shows that they are gone.

use std::collections::HashMap;

use kv_core::EventType;

use super::diff::Change;
use crate::api::path;
use crate::transport::client::{Client, SMALL};

/// The most requests for the deletions of one answer.
const REQUESTS: usize = 32;

/// Finds the indices of deletions that one answer shows together with other changes, so that events are in order.
///
/// Consul keeps the index of each deletion for a while, and reports the largest one under a prefix. A whole key is such
/// a prefix, and a tree that was deleted at once is kept as its prefix. If nothing is kept, Consul reports the index of
/// the whole store. An index that is found is never smaller than the deletion's own; if none is found, the deletion
/// keeps the index of the answer.
pub(super) async fn date_deletions(client: &Client, changes: &mut [Change], after: u64, until: u64) {
    let undated = undated(changes);
    if undated.len() == changes.len() {
        return;
    }
    let (mut dated, mut hidden) = (Vec::new(), Vec::new());
    let mut known = HashMap::new();
    for at in undated {
        let key = &changes[at].key;
        let mut prefix = key.as_str();
        loop {
            let Some(index) = last_index(client, prefix, &mut known).await else { break };
            if prefix == key && index <= until && is_of_another(changes, key, index) {
                hidden.push(key.clone());
                break;
            }
            if index > after && index < until {
                dated.push((at, index));
                break;
            }
            let Some(parent) = parent(prefix) else { break };
            prefix = parent;
        }
    }
    for (at, index) in dated {
        // A key and what is below it may have been deleted together, and then stay together.
        if !hidden.iter().any(|key| changes[at].key.starts_with(key)) {
            changes[at].index = index;
        }
    }
}

/// The index of the last write or deletion of any key that begins with `prefix`. Each prefix is asked for once.
async fn last_index(client: &Client, prefix: &str, known: &mut HashMap<String, Option<u64>>) -> Option<u64> {
    if let Some(index) = known.get(prefix) {
        return *index;
    }
    if known.len() == REQUESTS || !path::is_queryable(prefix) {
        return None;
    }
    let target = client.target(&path::kv(prefix), &["keys", "separator=/", "consistent"]);
    let index = client.get(target, SMALL).await.ok().and_then(|answer| answer.index);
    known.insert(prefix.to_owned(), index);
    index
}

/// The directory of a key or directory, with its `/`.
fn parent(prefix: &str) -> Option<&str> {
    let bare = prefix.strip_suffix('/').unwrap_or(prefix);
    bare.rfind('/').map(|slash| &bare[..=slash])
}

/// The positions of the deletions of keys that were not created again.
fn undated(changes: &[Change]) -> Vec<usize> {
    let is_undated = |at: usize| {
        let change = &changes[at];
        let again = changes.get(at + 1).is_some_and(|next| next.key == change.key);
        change.event_type == EventType::Delete && !again
    };
    (0..changes.len()).filter(|at| is_undated(*at)).collect()
}

/// Whether an index may be that of another entry, whose key begins with this one, and hide that of the deletion.
fn is_of_another(changes: &[Change], key: &str, index: u64) -> bool {
    let mut written = changes.iter().filter(|change| change.row.is_some());
    written.any(|change| change.index >= index && change.key.starts_with(key))
}

#[cfg(test)]
mod tests {
    use EventType::{Create, Delete, Update};

    use super::*;

    fn change(key: &str, event_type: EventType, index: u64) -> Change {
        Change { key: key.to_owned(), event_type, index, row: (event_type != Delete).then_some(0) }
    }

    #[test]
    fn only_deletions_of_keys_that_are_gone_lack_an_index() {
        let changes = [change("a", Delete, 9), change("b", Delete, 5), change("b", Create, 6), change("c", Update, 9)];
        assert_eq!(undated(&changes), [0]);
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
