//! The children of a directory ([clause R3](kv_core::contract::CLAUSES#R3)).

use bytes::Bytes;
use kv_core::Result;

use super::entries::{Candidate, lock_entries};
use super::paging::{Pager, check_size, goes_on, next_key, shrink};
use crate::api::lock_entry::named_lease;
use crate::api::page::{Entry, Page};
use crate::api::range::{Keys, Range, after_prefix, revision, signed};
use crate::error::Failed;
use crate::transport::client::Client;

/// How many keys the first page has, and how many a later one at most.
///
/// Pages grow because etcd counts the rest of the range for each of them.
const FIRST_KEYS: i64 = 1_000;
const MOST_KEYS: i64 = 50_000;

/// The children of a directory; `prefix` is empty or ends in `/`.
///
/// From page to page, what is left below a child is skipped.
pub(super) async fn keys(pager: &Pager, prefix: &str) -> Result<Vec<String>> {
    loop {
        match try_keys(pager, prefix).await {
            Err(failed) if failed.is_compacted() => tracing::debug!("a listing was compacted while it was read"),
            result => return Ok(result?),
        }
    }
}

async fn try_keys(pager: &Pager, prefix: &str) -> Result<Vec<String>, Failed> {
    let (mut children, mut keys) = (Children::of(prefix), Keys::default());
    let mut request = Range::prefix(prefix).request();
    request.keys_only = true;
    request.limit = FIRST_KEYS;
    loop {
        let message = match pager.page(&request).await {
            Err(failed) if shrink(&mut request.limit, &failed) => continue,
            result => result?,
        };
        let mut last = None;
        let page = Page::read(&message, |entry| {
            last = Some(entry.key);
            children.add(keys.text(entry.key), &entry)
        })?;
        if request.revision == 0 {
            request.revision = signed(revision(page.header.as_ref())?);
        }
        children.settle(&pager.client, request.revision).await?;
        let Some(last) = last.filter(|_| page.more) else {
            keys.done();
            return Ok(children.shown());
        };
        goes_on(&request, last)?;
        request.limit = (request.limit * 4).min(MOST_KEYS);
        request.key = children.next(last);
    }
}

/// The children that were met so far, in order.
struct Children<'a> {
    /// The directory's path.
    prefix: &'a str,
    found: Vec<Child>,
    /// What they take.
    bytes: usize,
    /// Keys that may be entries of locks, with the places of their children, as long as a child may be nothing else.
    pending: Vec<(Candidate, usize)>,
    /// The key before was the last of these.
    just_pended: bool,
}

struct Child {
    path: String,
    /// It is data, or has data below it. A child that has only entries of locks is not shown.
    data: bool,
}

impl<'a> Children<'a> {
    fn of(prefix: &'a str) -> Self {
        Self { prefix, found: Vec::new(), bytes: 0, pending: Vec::new(), just_pended: false }
    }

    fn add(&mut self, key: Option<&str>, entry: &Entry<'_>) -> Result<(), Failed> {
        let follows = std::mem::take(&mut self.just_pended);
        // A key that is the directory's own path, `/` included, is the directory itself and no child.
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

    /// Asks about the keys that may be entries of locks; those that are none are data.
    async fn settle(&mut self, client: &Client, revision: i64) -> Result<(), Failed> {
        self.just_pended = false;
        let (candidates, places): (Vec<_>, Vec<_>) = std::mem::take(&mut self.pending).into_iter().unzip();
        let locks = lock_entries(client, &candidates, revision).await?;
        for (candidate, place) in candidates.iter().zip(places) {
            self.found[place].data |= !locks.contains(&candidate.key);
        }
        Ok(())
    }

    /// Where the next page begins after this key: behind its child, if that is shown already.
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

/// The child of a directory that a key is or lies below; `directory` is the length of the directory's path.
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
        // Foreign keys are shown as they are.
        assert_eq!(child("a//b", 2), "a//");
    }

    #[test]
    fn a_directory_is_no_child_of_itself() {
        assert_eq!(met("dir/", &["dir/", "dir/sub/", "dir/sub/b", "dir/x"]).shown(), ["dir/sub/", "dir/x"]);
        assert_eq!(met("", &["dir/", "dir/x"]).shown(), ["dir/"]);
    }

    #[test]
    fn keys_are_asked_about_only_where_they_decide() {
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
    fn what_is_left_below_a_child_is_skipped() {
        assert_eq!(met("d/", &["d/sub/x"]).next(b"d/sub/x"), &b"d/sub0"[..]);
        assert_eq!(met("d/", &["d/sub/1f"]).next(b"d/sub/1f"), &b"d/sub/1f\0"[..]);
        assert_eq!(met("d/", &["d/x"]).next(b"d/x"), &b"d/x\0"[..]);
    }
}
