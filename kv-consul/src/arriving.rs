//! A listing that is read while it arrives: little is left to do once its last piece is there.

use kv_core::Value;
use memchr::memchr;

use crate::diff::State;
use crate::read::{Listed, Values};
use crate::scan;
use crate::wire::Entry;

/// What has been read of a listing.
///
/// It takes a body as Consul sends it, and nothing else: what is written or sorted in another way, or broken, is left to
/// who reads the body as a whole.
pub(crate) struct Arriving<'a> {
    prefix: &'a str,
    stage: Stage,
    /// What came of an entry that goes on in the next piece.
    begun: Vec<u8>,
    entries: Vec<(String, Value)>,
    state: State,
}

#[derive(PartialEq, Eq)]
enum Stage {
    /// Nothing came yet.
    Before,
    /// Within the list.
    Within,
    /// The list is complete.
    After,
    /// This is not how Consul writes.
    Strange,
}

impl<'a> Arriving<'a> {
    /// Of a listing of all that begins with `prefix`.
    pub(crate) fn new(prefix: &'a str) -> Self {
        Self { prefix, stage: Stage::Before, begun: Vec::new(), entries: Vec::new(), state: State::default() }
    }

    /// Reads the next piece of the body.
    pub(crate) fn piece(&mut self, mut piece: &[u8]) {
        if self.stage == Stage::Strange {
            return;
        }
        if !self.begun.is_empty() {
            // The entry that was begun ends at the first brace, and a comma or bracket follows it.
            let end = memchr(b'}', piece).map(|brace| brace + 2).filter(|end| *end <= piece.len());
            let (more, rest) = piece.split_at(end.unwrap_or(piece.len()));
            self.begun.extend_from_slice(more);
            if end.is_none() {
                return;
            }
            let begun = std::mem::take(&mut self.begun);
            // If the brace is within a key, nothing is gained by trying again and again.
            if !self.items(&begun).is_empty() {
                self.give_up();
                return;
            }
            piece = rest;
        }
        self.begun = self.items(piece).to_vec();
    }

    /// Reads the entries that a text begins with, and gives back what is left of it.
    fn items<'t>(&mut self, mut text: &'t [u8]) -> &'t [u8] {
        if self.stage == Stage::Before {
            let Some(rest) = text.strip_prefix(b"[") else { return text };
            (self.stage, text) = (Stage::Within, rest);
        }
        let mut entries = Vec::new();
        while self.stage == Stage::Within
            && let Some((entry, last, rest)) = scan::item(text)
        {
            entries.push(entry);
            text = rest;
            if last {
                self.stage = Stage::After;
            }
        }
        if self.take(entries).is_none() {
            self.give_up();
        }
        text
    }

    fn give_up(&mut self) {
        *self = Self { stage: Stage::Strange, ..Self::new(self.prefix) };
    }

    fn take(&mut self, entries: Vec<Entry<'_>>) -> Option<()> {
        let mut values = Values::of(entries.iter().map(|entry| entry.value.map_or(0, <[u8]>::len)));
        for entry in entries {
            let ordered = self.entries.last().is_none_or(|(last, _)| **last < *entry.key);
            if !ordered || !entry.key.starts_with(self.prefix) {
                return None;
            }
            self.state.push(&entry.key, entry.create_index, entry.modify_index);
            let data = values.decode(entry.value.unwrap_or_default()).ok()?;
            self.entries.push((entry.key.into_owned(), Value { data, index: entry.modify_index }));
        }
        Some(())
    }

    /// All of it, if the body was complete and as expected.
    pub(crate) fn finish(mut self) -> Option<Listed> {
        let begun = std::mem::take(&mut self.begun);
        let complete = self.items(&begun).is_empty() && self.stage == Stage::After;
        complete.then_some(Listed { entries: self.entries, state: self.state })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use hyper::StatusCode;
    use proptest::prelude::*;

    use super::*;
    use crate::agent::Answer;
    use crate::read::tests::config;
    use crate::read::whole;
    use crate::scan::tests::{broken, entries};

    /// Reads a body that comes in pieces which end at these places.
    fn arrived(body: &[u8], ends: &[prop::sample::Index], prefix: &str) -> Option<Listed> {
        let mut ends: Vec<usize> = ends.iter().map(|end| end.index(body.len() + 1)).chain([body.len()]).collect();
        ends.sort_unstable();
        let mut arriving = Arriving::new(prefix);
        let mut start = 0;
        for end in ends {
            arriving.piece(&body[start..end]);
            start = end;
        }
        arriving.finish()
    }

    fn rows(listed: &Listed) -> Vec<(&str, &str, &Value)> {
        let rows = listed.entries.iter().enumerate();
        rows.map(|(row, (key, value))| (listed.state.key(row), key.as_str(), value)).collect()
    }

    fn at_once(body: &[u8], prefix: &str) -> kv_core::Result<Listed> {
        let body = Bytes::copy_from_slice(body);
        whole(&Answer { status: StatusCode::OK, index: Some(1), body, listed: None }, prefix)
    }

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn the_pieces_make_no_difference(body in entries(), ends in any::<[prop::sample::Index; 3]>()) {
            let read = at_once(body.as_bytes(), "").expect("entries");
            let arrived = arrived(body.as_bytes(), &ends, "").expect("sorted entries, and no brace in a key");
            prop_assert_eq!(rows(&arrived), rows(&read));
            prop_assert!(arrived.state.is_same(&read.state, crate::diff::Scope::Prefix("")));
        }

        #[test]
        fn what_is_read_of_a_broken_body_is_what_reading_it_at_once_gives(
            body in broken(), ends in any::<[prop::sample::Index; 3]>(), prefix in "[ab]?",
        ) {
            if let Some(arrived) = arrived(&body, &ends, &prefix) {
                let read = at_once(&body, &prefix).expect("it could be read in pieces");
                prop_assert_eq!(rows(&arrived), rows(&read));
            }
        }
    }

    #[test]
    fn what_is_not_as_expected_is_left_to_others() {
        let entry = |key: &str| {
            format!(r#"{{"LockIndex":0,"Key":"{key}","Flags":1,"Value":"eA==","CreateIndex":1,"ModifyIndex":2}}"#)
        };
        let read = |body: &str| arrived(body.as_bytes(), &[], "a").map(|listed| listed.entries.len());
        assert_eq!(read(&format!("[{},{}]", entry("a"), entry("ab"))), Some(2));
        for body in [
            String::new(),
            "[]".to_owned(),
            format!("[{}", entry("a")),
            format!("[{},]", entry("a")),
            format!("[{}]]", entry("a")),
            format!("[{}] ", entry("a")),
            format!("[{},{}]", entry("ab"), entry("a")),
            format!("[{},{}]", entry("a"), entry("a")),
            format!("[{},{}]", entry("a"), entry("b")),
            format!("[{}]", entry("a").replace("eA==", "eA=!")),
            format!("[{}]", entry("a").replace("eA==", "eB==")),
        ] {
            assert_eq!(read(&body), None, "{body}");
        }
    }

    #[test]
    fn a_brace_in_a_key_that_is_cut_in_two_ends_the_attempt_at_once() {
        let mut arriving = Arriving::new("");
        arriving.piece(br#"[{"LockIndex":0,"Key":"a"#);
        arriving.piece(b"}b");
        assert!(arriving.stage == Stage::Strange && arriving.begun.is_empty());
    }
}
