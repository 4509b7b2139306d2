//! When keys were deleted: a listing tells only that they are gone.

use std::collections::HashMap;

use kv_core::EventType;

use crate::client::{Client, SMALL};
use crate::diff::Change;
use crate::path;

/// The most questions that are asked about the deletions of one answer.
const QUESTIONS: usize = 32;

impl Client {
    /// Finds the indices of deletions that an answer shows together with other changes, so that they come in order.
    ///
    /// Consul keeps the index of each deletion for a while, and tells the largest one under a prefix: a whole key is
    /// one too, and a tree that was deleted at once is kept as the prefix that it had. Where nothing is kept the answer
    /// is the index of the whole store. What is found is never smaller than the deletion's own index; where nothing is
    /// found, that of the answer stays.
    pub(crate) async fn date_deletions(&self, changes: &mut [Change], after: u64, until: u64) {
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
                let Some(index) = self.last_index(prefix, &mut known).await else { break };
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
            // What may have been deleted together, as a key and what is below it, stays together.
            if !hidden.iter().any(|key| changes[at].key.starts_with(key)) {
                changes[at].index = index;
            }
        }
    }

    /// The index of the last write or deletion of any key that begins with `prefix`, asked for once.
    async fn last_index(&self, prefix: &str, known: &mut HashMap<String, Option<u64>>) -> Option<u64> {
        if let Some(index) = known.get(prefix) {
            return *index;
        }
        if known.len() == QUESTIONS || !path::is_queryable(prefix) {
            return None;
        }
        let target = self.target(&path::kv(prefix), &["keys", "separator=/", "consistent"]);
        let index = self.get(target, SMALL).await.ok().and_then(|answer| answer.index);
        known.insert(prefix.to_owned(), index);
        index
    }
}

/// The directory that a key or directory stands in, with its `/`.
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

/// Whether an index may be that of an entry whose key only begins with this one, and hide that of the deletion.
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
    fn only_deletions_of_keys_that_are_gone_have_no_index() {
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
    fn a_later_entry_hides_the_deletion_of_what_its_key_begins_with() {
        let changes = [change("a", Delete, 9), change("ab", Update, 7)];
        assert!(is_of_another(&changes, "a", 7));
        assert!(!is_of_another(&changes, "a", 8));
        assert!(!is_of_another(&changes, "b", 7));
    }
}
