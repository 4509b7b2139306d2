//! When keys were deleted: a listing tells only that they are gone.

use kv_core::EventType;

use crate::client::{Client, SMALL};
use crate::diff::Change;
use crate::path;

/// The most deletions of one answer that are looked up.
const LOOKUPS: usize = 16;

impl Client {
    /// Finds the indices of deletions that an answer shows together with other changes, so that they come in order.
    ///
    /// Consul keeps the index of each deletion for a while, and tells the largest one under a prefix, which a whole
    /// key is too. Those that it does not tell keep the index of the answer.
    pub(crate) async fn date_deletions(&self, changes: &mut [Change], after: u64, until: u64) {
        let undated = undated(changes);
        if undated.len() > LOOKUPS || undated.len() == changes.len() {
            return;
        }
        let (mut dated, mut hidden) = (Vec::new(), Vec::new());
        for at in undated {
            let key = &changes[at].key;
            match self.last_index(key).await {
                // It has been written again since.
                Some(index) if index <= after || index > until => {}
                Some(index) if is_of_another(changes, key, index) => hidden.push(key.clone()),
                Some(index) => dated.push((at, index)),
                None => {}
            }
        }
        for (at, index) in dated {
            // What may have been deleted together, as a key and what is below it, stays together.
            if !hidden.iter().any(|key| changes[at].key.starts_with(key)) {
                changes[at].index = index;
            }
        }
    }

    /// The index of the last write or deletion of any key that begins with this one.
    async fn last_index(&self, key: &str) -> Option<u64> {
        if !path::is_queryable(key) {
            return None;
        }
        let target = self.target(&path::kv(key), &["keys", "separator=/", "consistent"]);
        self.get(target, SMALL).await.ok()?.index
    }
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
    fn a_later_entry_hides_the_deletion_of_what_its_key_begins_with() {
        let changes = [change("a", Delete, 9), change("ab", Update, 7)];
        assert!(is_of_another(&changes, "a", 7));
        assert!(!is_of_another(&changes, "a", 8));
        assert!(!is_of_another(&changes, "b", 7));
    }
}
