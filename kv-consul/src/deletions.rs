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
    /// key is too. Where it cannot be told for all of them, all keep the index of the answer.
    pub(crate) async fn date_deletions(&self, changes: &mut [Change], after: u64, until: u64) {
        let deletions = || changes.iter().filter(|change| is_undated(change, until));
        let count = deletions().count();
        if count == 0 || count > LOOKUPS || count == changes.len() {
            return;
        }
        let mut indices = Vec::with_capacity(count);
        for deletion in deletions() {
            // An entry whose key begins with this one hides the deletion if it was written later.
            let hidden = changes.iter().any(|change| change.row.is_some() && change.key.starts_with(&deletion.key));
            if hidden || !path::is_queryable(&deletion.key) {
                return;
            }
            let target = self.target(&path::kv(&deletion.key), &["keys", "separator=/", "consistent"]);
            match self.get(target, SMALL).await.map(|answer| answer.index) {
                Ok(Some(index)) if index > after && index <= until => indices.push(index),
                _ => return,
            }
        }
        for (deletion, index) in changes.iter_mut().filter(|change| is_undated(change, until)).zip(indices) {
            deletion.index = index;
        }
    }
}

/// Whether a change is a deletion that has the index of the answer; that of a key created anew has another, mostly.
fn is_undated(change: &Change, until: u64) -> bool {
    change.event_type == EventType::Delete && change.index == until
}
