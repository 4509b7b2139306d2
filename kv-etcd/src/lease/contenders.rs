//! The contenders for a lock whose name also has data below it ([clause L10](kv_core::contract::CLAUSES#L10)).
//!
//! Contenders are direct children of the lock's name. Other keys below the name, and nested locks, do not count.

use bytes::Bytes;

use crate::api::lock_entry::{contenders, named_lease};
use crate::api::messages::RangeRequest;
use crate::api::range::after_prefix;
use crate::error::Failed;
use crate::read::entries::{Candidate, lock_entries};
use crate::read::paging::{Pager, check_size, next_key, until_complete};

/// How many keys a page has.
const PAGE: i64 = 10_000;

/// The key of a holder of a lock, or of a waiter for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Contender {
    pub(super) key: Bytes,
    pub(super) create_revision: i64,
    pub(super) mod_revision: i64,
}

/// Lists the contenders for the lock `name` at one revision, in the order in which they asked.
pub(super) async fn list(pager: &Pager, name: &str) -> Result<Vec<Contender>, Failed> {
    until_complete(|| try_list(pager, name)).await
}

async fn try_list(pager: &Pager, name: &str) -> Result<Vec<Contender>, Failed> {
    let directory = contenders(name);
    let mut listing = pager.pages(RangeRequest {
        // Lease ids begin with one of `1` to `f`.
        key: format!("{directory}1").into(),
        range_end: format!("{directory}g").into(),
        limit: PAGE,
        keys_only: true,
        ..RangeRequest::default()
    });
    let (mut found, mut candidates) = (Vec::new(), Vec::new());
    let mut bytes = 0;
    loop {
        let message = listing.fetch().await?;
        let mut follows = false;
        let last = listing.read(&message, |entry| {
            let may_be = child_of(entry.key, &directory) && named_lease(entry.key).is_some();
            if may_be {
                let key = Bytes::copy_from_slice(entry.key);
                let (create_revision, mod_revision) = (entry.create_revision, entry.mod_revision);
                bytes += key.len() + size_of::<(Contender, Candidate)>();
                candidates.push(Candidate { key: key.clone(), mod_revision, follows });
                found.push(Contender { key, create_revision, mod_revision });
            }
            follows = may_be;
            check_size(bytes)
        })?;
        let Some(last) = last else { break };
        let limit = listing.limit();
        listing.go_on(next(last, &directory), limit);
    }
    let locks = lock_entries(&pager.client, &candidates, listing.revision()).await?;
    found.retain(|contender| locks.contains(&contender.key));
    found.sort_by_key(|contender| contender.create_revision);
    Ok(found)
}

/// Whether a key is directly below a directory, whose path ends in `/`.
fn child_of(key: &[u8], directory: &str) -> bool {
    key.strip_prefix(directory.as_bytes()).is_some_and(|name| !name.contains(&b'/'))
}

/// The first key of the page after `last`: it skips the rest of the child that `last` belongs to.
fn next(last: &[u8], directory: &str) -> Bytes {
    let slash = last.iter().skip(directory.len()).position(|byte| *byte == b'/');
    match slash {
        Some(slash) => after_prefix(&last[..=directory.len() + slash]),
        None => next_key(last),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_direct_children_contend() {
        assert!(child_of(b"job/1f", "job/"));
        assert!(!child_of(b"job/1/f", "job/") && !child_of(b"jobs/1f", "job/"));
    }

    #[test]
    fn the_next_page_skips_the_rest_of_a_child() {
        assert_eq!(next(b"job/1f", "job/"), &b"job/1f\0"[..]);
        assert_eq!(next(b"job/1/f/g", "job/"), &b"job/10"[..]);
    }
}
