//! Who contends for a lock, where its name also has data below it ([clause L10](kv_core::contract::CLAUSES#L10)).
//!
//! Contenders are direct children of the lock's name. Other keys below the name, and locks nested below it, do not count.

use bytes::Bytes;

use crate::api::lock_entry::{contenders, named_lease};
use crate::api::messages::RangeRequest;
use crate::api::page::Page;
use crate::api::range::{after_prefix, revision, signed};
use crate::error::Failed;
use crate::read::entries::{Candidate, lock_entries};
use crate::read::paging::{check_size, goes_on, next_key, page, shrink};
use crate::transport::client::Client;

/// How many keys a page has.
const PAGE: i64 = 10_000;

/// The key of one who holds a lock or waits for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Contender {
    pub(super) key: Bytes,
    pub(super) create_revision: i64,
    pub(super) mod_revision: i64,
}

/// Every contender for the lock `name` at one revision, in the order in which they asked.
pub(super) async fn list(client: &Client, name: &str) -> Result<Vec<Contender>, Failed> {
    loop {
        match try_list(client, name).await {
            Err(failed) if failed.is_compacted() => tracing::debug!("the queue was compacted while it was read"),
            result => return result,
        }
    }
}

async fn try_list(client: &Client, name: &str) -> Result<Vec<Contender>, Failed> {
    let directory = contenders(name);
    let mut request = RangeRequest {
        // Lease ids begin with one of `1` to `f`.
        key: format!("{directory}1").into(),
        range_end: format!("{directory}g").into(),
        limit: PAGE,
        keys_only: true,
        ..RangeRequest::default()
    };
    let (mut found, mut candidates) = (Vec::new(), Vec::new());
    let mut bytes = 0;
    loop {
        let message = match page(client, &request).await {
            Err(failed) if shrink(&mut request.limit, &failed) => continue,
            result => result?,
        };
        let mut last = None;
        let mut follows = false;
        let page = Page::read(&message, |entry| {
            last = Some(entry.key);
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
        if request.revision == 0 {
            request.revision = signed(revision(page.header.as_ref())?);
        }
        let Some(last) = last.filter(|_| page.more) else { break };
        goes_on(&request, last)?;
        request.key = next(last, &directory);
    }
    let locks = lock_entries(client, &candidates, request.revision).await?;
    found.retain(|contender| locks.contains(&contender.key));
    found.sort_by_key(|contender| contender.create_revision);
    Ok(found)
}

/// Whether a key is directly below a directory, whose path ends in `/`.
fn child_of(key: &[u8], directory: &str) -> bool {
    key.strip_prefix(directory.as_bytes()).is_some_and(|name| !name.contains(&b'/'))
}

/// Where the next page begins: behind the child of the directory that the last key is or lies below.
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
    fn what_is_below_a_child_is_skipped() {
        assert_eq!(next(b"job/1f", "job/"), &b"job/1f\0"[..]);
        assert_eq!(next(b"job/1/f/g", "job/"), &b"job/10"[..]);
    }
}
