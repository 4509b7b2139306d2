//! Ranges of keys, revisions, and keys as strings.

use bytes::Bytes;
use kv_core::{Result, observability};

use crate::api::messages::{KeyValue, RangeRequest, ResponseHeader};
use crate::config::NAME;
use crate::error::Failed;

/// A half-open range of keys: <https://etcd.io/docs/latest/learning/api/#key-ranges>.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) key: Bytes,
    /// Empty: only `key`. A single NUL byte: everything from `key` on.
    pub(crate) end: Bytes,
}

impl Range {
    /// One key.
    pub(crate) fn key(key: &str) -> Self {
        Self { key: Bytes::copy_from_slice(key.as_bytes()), end: Bytes::new() }
    }

    /// Every key that begins with `prefix`; every key if it is empty.
    pub(crate) fn prefix(prefix: &str) -> Self {
        // etcd refuses an empty key; a single NUL byte is the smallest there is.
        let key = if prefix.is_empty() { "\0" } else { prefix };
        Self { key: Bytes::copy_from_slice(key.as_bytes()), end: after_prefix(prefix.as_bytes()) }
    }

    pub(crate) fn request(&self) -> RangeRequest {
        RangeRequest { key: self.key.clone(), range_end: self.end.clone(), ..RangeRequest::default() }
    }
}

/// The first string after all strings that begin with `prefix`, as etcd expects it for the end of a range.
pub(crate) fn after_prefix(prefix: &[u8]) -> Bytes {
    let kept = prefix.iter().rposition(|byte| *byte != 0xff).map_or(0, |last| last + 1);
    let mut end = prefix[..kept].to_vec();
    match end.last_mut() {
        Some(last) => *last += 1,
        None => end.push(0),
    }
    end.into()
}

/// The revision of the store in the header of an answer; every answer about keys has one.
pub(crate) fn revision(header: Option<&ResponseHeader>) -> Result<u64, Failed> {
    let revision = header.and_then(|header| u64::try_from(header.revision).ok()).filter(|revision| *revision > 0);
    revision.ok_or_else(|| Failed::unexpected("the answer has no revision"))
}

/// An index as a revision. Every index that etcd returns fits.
pub(crate) fn signed(index: u64) -> i64 {
    i64::try_from(index).unwrap_or(i64::MAX)
}

/// A revision as an index. Revisions are never negative.
pub(crate) fn index(revision: i64) -> u64 {
    u64::try_from(revision).unwrap_or(0)
}

/// Converts the keys of a listing, or of events that came together, to strings. Keys that are not UTF-8 are left out.
#[derive(Default)]
pub(crate) struct Keys {
    left_out: usize,
    /// The first of them.
    first: Bytes,
}

impl Keys {
    pub(crate) fn utf8(&mut self, kv: &KeyValue) -> Option<String> {
        self.text(&kv.key).map(str::to_owned)
    }

    pub(crate) fn text<'a>(&mut self, key: &'a [u8]) -> Option<&'a str> {
        let text = std::str::from_utf8(key).ok();
        if text.is_none() {
            if self.left_out == 0 {
                self.first = Bytes::copy_from_slice(key);
            }
            self.left_out += 1;
        }
        text
    }

    /// Reports the keys that were left out; called at the end.
    pub(crate) fn done(self) {
        if self.left_out > 0 {
            observability::foreign_keys_left_out(NAME, self.left_out, &self.first);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_string() {
        for (prefix, end) in [("a", &b"b"[..]), ("a/", b"a0"), ("", b"\0"), ("é", b"\xc3\xaa"), ("\u{7f}", b"\x80")] {
            assert_eq!(after_prefix(prefix.as_bytes()), end, "{prefix:?}");
        }
        assert_eq!(after_prefix(b"a\xff\xff"), &b"b"[..]);
        assert_eq!(after_prefix(b"\xff"), &b"\0"[..]);
        assert_eq!(Range::prefix("").key, &b"\0"[..]);
    }
}
