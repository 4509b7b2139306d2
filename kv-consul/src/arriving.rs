//! A listing that is read while it arrives: little is left to do once its last piece is there.

use kv_core::{Result, Value};
use memchr::memchr;

use crate::agent::Answer;
use crate::diff::State;
use crate::read::{Listed, Values, json, unexpected};
use crate::scan;
use crate::wire::Entry;

/// What has been read of a listing so far.
///
/// No piece is kept, so that the connection can use its memory for the next one. From the first entry on that is not
/// written as Consul writes them, the text is kept, and read as JSON in the end.
#[derive(Debug)]
pub(crate) struct Arriving {
    prefix: String,
    stage: Stage,
    /// What is not read yet.
    rest: Vec<u8>,
    /// It is not read before the end.
    strange: bool,
    entries: Vec<(String, Value)>,
    /// The index of each entry's creation.
    created: Vec<u64>,
}

/// What was read last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Nothing,
    /// The bracket that begins the list.
    Begin,
    /// An entry and a comma: another one must follow.
    Comma,
    /// The bracket that ends the list.
    End,
}

impl Arriving {
    /// Of a listing of all that begins with `prefix`.
    pub(crate) fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
            stage: Stage::Nothing,
            rest: Vec::new(),
            strange: false,
            entries: Vec::new(),
            created: Vec::new(),
        }
    }

    /// Reads the next piece of the body.
    pub(crate) fn piece(&mut self, mut piece: &[u8]) -> Result<()> {
        if self.strange {
            self.rest.extend_from_slice(piece);
            return Ok(());
        }
        if !self.rest.is_empty() {
            // The entry that was begun ends at the first brace, and a comma or bracket follows it.
            let end = memchr(b'}', piece).map(|brace| brace + 2).filter(|end| *end <= piece.len());
            let (more, after) = piece.split_at(end.unwrap_or(piece.len()));
            self.rest.extend_from_slice(more);
            if end.is_none() {
                return Ok(());
            }
            let begun = std::mem::take(&mut self.rest);
            let left = self.items(&begun)?;
            if !left.is_empty() {
                // To try again with each piece would take ever longer.
                self.strange = true;
                self.rest = [left, after].concat();
                return Ok(());
            }
            piece = after;
        }
        self.rest = self.items(piece)?.to_vec();
        Ok(())
    }

    /// Reads the entries that a text begins with, and gives back what is left of it.
    fn items<'t>(&mut self, mut text: &'t [u8]) -> Result<&'t [u8]> {
        if self.stage == Stage::Nothing
            && let Some(rest) = text.strip_prefix(b"[")
        {
            (self.stage, text) = (Stage::Begin, rest);
        }
        let mut entries = Vec::new();
        while matches!(self.stage, Stage::Begin | Stage::Comma)
            && let Some((entry, last, rest)) = scan::item(text)
        {
            entries.push(entry);
            (self.stage, text) = (if last { Stage::End } else { Stage::Comma }, rest);
        }
        self.take(entries)?;
        Ok(text)
    }

    fn take(&mut self, entries: Vec<Entry<'_>>) -> Result<()> {
        let mut values = Values::of(entries.iter().map(|entry| entry.value.map_or(0, <[u8]>::len)));
        for entry in entries {
            // Also of entries that are not asked for: only then is it known that they are valid at all.
            let data = values.decode(entry.value.unwrap_or_default())?;
            if !entry.key.starts_with(&self.prefix) {
                continue;
            }
            self.entries.push((entry.key.into_owned(), Value { data, index: entry.modify_index }));
            self.created.push(entry.create_index);
        }
        Ok(())
    }

    /// Reads what is left, and gives all of it: sorted by key, each once.
    pub(crate) fn finish(mut self, answer: &Answer) -> Result<Listed> {
        let rest = std::mem::take(&mut self.rest);
        let left = self.items(&rest)?;
        if self.stage == Stage::End {
            if !left.iter().all(|byte| b" \t\r\n".contains(byte)) {
                return Err(unexpected(answer));
            }
        } else {
            let begin: &[u8] = if self.stage == Stage::Nothing { b"" } else { b"[" };
            let text = [begin, left].concat();
            let entries = json(&text, answer)?;
            if entries.is_empty() && self.stage == Stage::Comma {
                return Err(unexpected(answer));
            }
            self.take(entries)?;
        }
        // Consul lists in this order; that the rest relies on it is no reason to rely on Consul.
        if !self.entries.is_sorted_by(|a, b| a.0 < b.0) {
            let mut rows: Vec<_> = self.entries.into_iter().zip(self.created).collect();
            rows.sort_by(|((a, _), _), ((b, _), _)| a.cmp(b));
            rows.dedup_by(|((a, _), _), ((b, _), _)| a == b);
            (self.entries, self.created) = rows.into_iter().unzip();
        }
        let mut state = State::with_capacity(self.entries.len());
        for ((key, value), created) in self.entries.iter().zip(&self.created) {
            state.push(key, *created, value.index);
        }
        Ok(Listed { entries: self.entries, state })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use hyper::StatusCode;
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;
    use crate::read::tests::config;
    use crate::scan::tests::{broken, entries};

    /// Gives a body in pieces that end at these places.
    fn arriving(body: &[u8], ends: &[Index], prefix: &str) -> Result<Arriving> {
        let mut ends: Vec<usize> = ends.iter().map(|end| end.index(body.len() + 1)).chain([body.len()]).collect();
        ends.sort_unstable();
        let mut arriving = Arriving::new(prefix);
        let mut start = 0;
        for end in ends {
            arriving.piece(&body[start..end])?;
            start = end;
        }
        Ok(arriving)
    }

    fn finished(arriving: Arriving) -> Result<Vec<(String, Value)>> {
        let answer = Answer { status: StatusCode::OK, index: Some(1), body: Bytes::new(), arriving: None };
        let Listed { entries, state } = arriving.finish(&answer)?;
        assert_eq!(state.len(), entries.len());
        for (row, (key, value)) in entries.iter().enumerate() {
            assert_eq!((state.key(row), state.modify_index(row)), (key.as_str(), value.index));
        }
        Ok(entries)
    }

    /// What JSON makes of the whole of it.
    fn by_json(body: &[u8], prefix: &str) -> Option<Vec<(String, Value)>> {
        let read: Vec<Entry<'_>> = serde_json::from_str(std::str::from_utf8(body).ok()?).ok()?;
        let entry = |entry: Entry<'_>| {
            let data = Values::of([9].into_iter()).decode(entry.value.unwrap_or_default()).ok()?;
            Some((entry.key.into_owned(), Value { data, index: entry.modify_index }))
        };
        let mut entries: Vec<_> = read.into_iter().map(entry).collect::<Option<_>>()?;
        entries.retain(|entry| entry.0.starts_with(prefix));
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        entries.dedup_by(|a, b| a.0 == b.0);
        Some(entries)
    }

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn the_pieces_make_no_difference(body in entries(), ends in any::<[Index; 3]>()) {
            let arriving = arriving(body.as_bytes(), &ends, "").expect("entries");
            prop_assert!(!arriving.strange);
            prop_assert_eq!(finished(arriving).ok(), by_json(body.as_bytes(), ""));
        }

        #[test]
        fn a_broken_body_is_read_as_json_reads_it(
            body in broken(), ends in any::<[Index; 3]>(), prefix in "[ab]?",
        ) {
            let read = arriving(&body, &ends, &prefix).and_then(finished);
            prop_assert_eq!(read.ok(), by_json(&body, &prefix));
        }
    }

    #[test]
    fn what_is_not_as_expected_is_read_all_the_same_if_it_is_json() {
        let entry = |key: &str| {
            format!(r#"{{"LockIndex":0,"Key":"{key}","Flags":1,"Value":"eA==","CreateIndex":1,"ModifyIndex":2}}"#)
        };
        let [a, ab, b] = ["a", "ab", "b"].map(entry);
        let read = |body: &str| {
            assert_eq!(arriving(body.as_bytes(), &[], "a").and_then(finished).ok(), by_json(body.as_bytes(), "a"));
            let keys = arriving(body.as_bytes(), &[], "a").and_then(finished).ok()?;
            Some(keys.into_iter().map(|(key, _)| key).collect::<Vec<_>>().join(" "))
        };
        for (body, keys) in [
            ("[]".to_owned(), Some("")),
            (format!("[{a},{ab}]"), Some("a ab")),
            (format!("[{ab},{a}]"), Some("a ab")),
            (format!("[{a},{a},{b}]"), Some("a")),
            (format!("[{a}, {ab}] \n"), Some("a ab")),
            (format!(" [ {a},{ab}]"), Some("a ab")),
            (format!("[{a},{}]", entry(r#"a\"\u00e9}}"#)), Some("a a\"é}}")),
            (format!("[{a},{}]", ab.replace(r#""Flags":1,"#, r#""Namespace":"x","#)), Some("a ab")),
            (String::new(), None),
            (format!("[{a}"), None),
            (format!("[{a},]"), None),
            (format!("[{a}]]"), None),
            (format!("[{a}],"), None),
            (format!("[{a},{}]", ab.replace("eA==", "eA=!")), None),
            (format!("[{a},{}]", ab.replace("eA==", "eB==")), None),
        ] {
            assert_eq!(read(&body).as_deref(), keys, "{body}");
        }
    }

    #[test]
    fn a_brace_in_a_key_that_is_cut_in_two_is_not_looked_at_again_and_again() {
        let mut arriving = Arriving::new("");
        for piece in [r#"[{"LockIndex":0,"Key":"a"#, "}b", r#"}","CreateIndex":1,"ModifyIndex":2}]"#] {
            arriving.piece(piece.as_bytes()).expect("nothing is wrong yet");
        }
        assert!(arriving.strange);
        assert_eq!(finished(arriving).expect("entries"), [("a}b}".to_owned(), Value::new("", 2))]);
    }
}
