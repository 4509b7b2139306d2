//! The children of a directory ([clause R3](kv_core::contract::CLAUSES#R3)).

use super::entries::{Candidate, lock_entries};
use super::paging::{Pager, check_size, next_key, until_complete};
use crate::api::lock_entry::named_lease;
use crate::api::messages::RangeRequest;
use crate::api::page::Entry;
use crate::api::range::{Keys, Range, after_prefix};
use crate::error::Failed;
use crate::transport::client::Client;
use bytes::Bytes;

/// How many keys the first page has, and how many a later page has at most.
///
/// Pages grow, because etcd counts the rest of the range for each page.
const FIRST_KEYS: i64 = 1_000;
const MOST_KEYS: i64 = 50_000;

/// The children of a directory; `prefix` is empty or ends in `/`.
///
/// The next page begins behind the child with which a page ended: the rest below that child is skipped.
pub(super) async fn keys(pager: &Pager, prefix: &str) -> Result<Vec<String>, Failed> {
    until_complete(|| try_keys(pager, prefix)).await
}

async fn try_keys(pager: &Pager, prefix: &str) -> Result<Vec<String>, Failed> {
    let (mut children, mut keys) = (Children::of(prefix), Keys::default());
    let range = Range::prefix(prefix).request();
    let mut listing = pager.pages(RangeRequest { keys_only: true, limit: FIRST_KEYS, ..range });
    loop {
        let message = listing.fetch().await?;
        let last = listing.read(&message, |entry| children.add(keys.text(entry.key), &entry))?;
        children.settle(&pager.client, listing.revision()).await?;
        let Some(last) = last else {
            keys.done();
            return Ok(children.shown());
        };
        let limit = (listing.limit() * 4).min(MOST_KEYS);
        listing.go_on(children.next(last), limit);
    }
}

/// The children found so far, in order.
struct Children<'a> {
    /// The path of the directory.
    prefix: &'a str,
    found: Vec<Child>,
    /// Their size in memory.
    bytes: usize,
    /// Keys that may be entries of locks, each with the position of its child. A child that is known to be data has
    /// none.
    pending: Vec<(Candidate, usize)>,
    /// Whether the previous key is the last of `pending`.
    just_pended: bool,
}

struct Child {
    path: String,
    /// Whether it is data, or has data below it. A child with nothing but entries of locks is not shown.
    data: bool,
}

impl<'a> Children<'a> {
    fn of(prefix: &'a str) -> Self {
        Self { prefix, found: Vec::new(), bytes: 0, pending: Vec::new(), just_pended: false }
    }

    fn add(&mut self, key: Option<&str>, entry: &Entry<'_>) -> Result<(), Failed> {
        let follows = std::mem::take(&mut self.just_pended);
        // A key that equals the directory's path, with its `/`, is no child of the directory.
        let below = |key: &&str| key.len() > self.prefix.len() && key.starts_with(self.prefix);
        let Some(key) = key.filter(below) else { return Ok(()) };
        let path = child(key, self.prefix.len());
        if self.found.last().is_none_or(|last| last.path != path) {
            self.bytes += path.len() + size_of::<Child>();
            check_size(self.bytes)?;
            self.found.push(Child { path: path.to_owned(), data: false });
        }
        let place = self.found.len() - 1;
        if self.found[place].data {
            return Ok(());
        }
        if named_lease(entry.key).is_some() {
            let key = Bytes::copy_from_slice(entry.key);
            self.pending.push((Candidate { key, mod_revision: entry.mod_revision, follows }, place));
            self.just_pended = true;
        } else {
            self.found[place].data = true;
            while self.pending.pop_if(|(_, pending)| *pending == place).is_some() {}
        }
        Ok(())
    }

    /// Asks the store which pending keys are entries of locks. The others are data.
    async fn settle(&mut self, client: &Client, revision: i64) -> Result<(), Failed> {
        self.just_pended = false;
        let (candidates, places): (Vec<_>, Vec<_>) = std::mem::take(&mut self.pending).into_iter().unzip();
        let locks = lock_entries(client, &candidates, revision).await?;
        for (candidate, place) in candidates.iter().zip(places) {
            self.found[place].data |= !locks.contains(&candidate.key);
        }
        Ok(())
    }

    /// The first key of the page after this key. It skips the rest of the child that the key belongs to, if that child
    /// is known to be shown.
    fn next(&self, last: &[u8]) -> Bytes {
        match self.found.last() {
            Some(Child { path, data: true }) if path.ends_with('/') && last.starts_with(path.as_bytes()) => {
                after_prefix(path.as_bytes())
            }
            _ => next_key(last),
        }
    }

    fn shown(self) -> Vec<String> {
        self.found.into_iter().filter(|child| child.data).map(|child| child.path).collect()
    }
}

/// The child of a directory that a key belongs to; `directory` is the length of the directory's path.
fn child(key: &str, directory: usize) -> &str {
    let end = key[directory..].find('/').map_or(key.len(), |slash| directory + slash + 1);
    &key[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn met<'a>(prefix: &'a str, keys: &[&str]) -> Children<'a> {
        let mut children = Children::of(prefix);
        for key in keys {
            children.add(Some(key), &Entry { key: key.as_bytes(), ..Entry::default() }).expect("small");
        }
        children
    }

    #[test]
    fn a_child_is_a_key_or_a_directory() {
        assert_eq!(child("a", 0), "a");
        assert_eq!(child("a/b/c", 0), "a/");
        assert_eq!(child("a/b/c", 2), "a/b/");
        assert_eq!(child("a/b", 2), "a/b");
        // A key of another program may have an empty segment.
        assert_eq!(child("a//b", 2), "a//");
    }

    #[test]
    fn a_directory_is_no_child_of_itself() {
        assert_eq!(met("dir/", &["dir/", "dir/sub/", "dir/sub/b", "dir/x"]).shown(), ["dir/sub/", "dir/x"]);
        assert_eq!(met("", &["dir/", "dir/x"]).shown(), ["dir/"]);
    }

    #[test]
    fn the_store_is_asked_only_about_keys_that_decide_whether_a_child_is_shown() {
        let children =
            met("d/", &["d/1", "d/2", "d/a", "d/job/1f", "d/job/2f", "d/mixed/1f", "d/mixed/x", "d/mixed/y"]);
        let asked: Vec<_> =
            children.pending.iter().map(|(candidate, _)| (&candidate.key[..], candidate.follows)).collect();
        let expected: [(&[u8], bool); 5] =
            [(b"d/1", false), (b"d/2", true), (b"d/a", true), (b"d/job/1f", true), (b"d/job/2f", true)];
        assert_eq!(asked, expected);
        assert_eq!(children.shown(), ["d/mixed/"]);
    }

    #[test]
    fn the_next_page_skips_the_rest_of_a_child_that_is_shown() {
        assert_eq!(met("d/", &["d/sub/x"]).next(b"d/sub/x"), &b"d/sub0"[..]);
        assert_eq!(met("d/", &["d/sub/1f"]).next(b"d/sub/1f"), &b"d/sub/1f\0"[..]);
        assert_eq!(met("d/", &["d/x"]).next(b"d/x"), &b"d/x\0"[..]);
    }
}
