//! Decoding of a listing while it arrives, so that little work is left after its last piece.

use kv_core::{Result, Value};
use memchr::memchr;

use super::answer::Answer;
use super::entries::{Values, from_json};
use super::lock::is_lock;
use super::messages::Entry;
use super::scan;
use super::state::State;

/// The entries of a listing that have arrived so far.
///
/// It copies what it needs from each piece, so that the connection can reuse the piece's memory for the next one. If an
/// entry is not written as Consul writes them, it keeps the text from there on, and reads it as JSON at the end.
#[derive(Debug)]
pub(crate) struct ListingDecoder {
    prefix: String,
    position: Position,
    /// Text that has not been read yet.
    rest: Vec<u8>,
    /// The rest is read as JSON, when the body is complete.
    is_json: bool,
    entries: Vec<(String, Value)>,
    /// The creation index of each entry.
    created: Vec<u64>,
}

/// What was read last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    Nothing,
    /// The bracket that begins the list.
    Begin,
    /// An entry and a comma: another entry must follow.
    Comma,
    /// The bracket that ends the list.
    End,
}

impl ListingDecoder {
    /// A decoder that keeps the entries whose keys begin with `prefix`, except those of locks.
    pub(crate) fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
            position: Position::Nothing,
            rest: Vec::new(),
            is_json: false,
            entries: Vec::new(),
            created: Vec::new(),
        }
    }

    /// Reads the next piece of the body.
    pub(crate) fn piece(&mut self, mut piece: &[u8]) -> Result<()> {
        if self.is_json {
            self.rest.extend_from_slice(piece);
            return Ok(());
        }
        if !self.rest.is_empty() {
            // A started entry ends at the first brace, followed by a comma or bracket.
            let end = memchr(b'}', piece).map(|brace| brace + 2).filter(|end| *end <= piece.len());
            let (more, after) = piece.split_at(end.unwrap_or(piece.len()));
            self.rest.extend_from_slice(more);
            if end.is_none() {
                return Ok(());
            }
            let started = std::mem::take(&mut self.rest);
            let left = self.items(&started)?;
            if !left.is_empty() {
                // A retry after each piece would take time that grows with the square of the length.
                self.is_json = true;
                self.rest = [left, after].concat();
                return Ok(());
            }
            piece = after;
        }
        self.rest = self.items(piece)?.to_vec();
        Ok(())
    }

    /// Reads the entries at the start of a text, and returns the text after them.
    fn items<'t>(&mut self, mut text: &'t [u8]) -> Result<&'t [u8]> {
        if self.position == Position::Nothing
            && let Some(rest) = text.strip_prefix(b"[")
        {
            (self.position, text) = (Position::Begin, rest);
        }
        let mut entries = Vec::new();
        while matches!(self.position, Position::Begin | Position::Comma)
            && let Some((entry, last, rest)) = scan::item(text)
        {
            entries.push(entry);
            (self.position, text) = (if last { Position::End } else { Position::Comma }, rest);
        }
        self.take(entries)?;
        Ok(text)
    }

    fn take(&mut self, entries: Vec<Entry<'_>>) -> Result<()> {
        let mut values = Values::of(entries.iter().map(|entry| entry.value.map_or(0, <[u8]>::len)));
        for entry in entries {
            // Entries that are left out are decoded too, because only decoding finds an invalid one.
            let data = values.decode(entry.value.unwrap_or_default())?;
            if !entry.key.starts_with(&self.prefix) || is_lock(&entry.key, entry.flags) {
                continue;
            }
            self.entries.push((entry.key.into_owned(), Value { data, index: entry.modify_index }));
            self.created.push(entry.create_index);
        }
        Ok(())
    }

    /// Reads the rest, and returns all entries, sorted by key, each once. The body of `answer` is only for error texts.
    pub(crate) fn finish(mut self, answer: &Answer) -> Result<(Vec<(String, Value)>, State)> {
        let rest = std::mem::take(&mut self.rest);
        let left = self.items(&rest)?;
        if self.position == Position::End {
            if !left.iter().all(|byte| b" \t\r\n".contains(byte)) {
                return Err(answer.unexpected());
            }
        } else {
            let begin: &[u8] = if self.position == Position::Nothing { b"" } else { b"[" };
            let text = [begin, left].concat();
            let entries = from_json(&text, answer)?;
            if entries.is_empty() && self.position == Position::Comma {
                return Err(answer.unexpected());
            }
            self.take(entries)?;
        }
        // Consul lists in this order. The callers rely on the order, so it is checked here.
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
        Ok((self.entries, state))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use hyper::StatusCode;
    use kv_core::backend::fate::Idempotence;
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;
    use crate::api::arbitrary::config;
    use crate::api::scan::tests::{broken, entries};

    /// Feeds a body in pieces that end at these places.
    fn fed(body: &[u8], ends: &[Index], prefix: &str) -> Result<ListingDecoder> {
        let mut ends: Vec<usize> = ends.iter().map(|end| end.index(body.len() + 1)).chain([body.len()]).collect();
        ends.sort_unstable();
        let mut decoder = ListingDecoder::new(prefix);
        let mut start = 0;
        for end in ends {
            decoder.piece(&body[start..end])?;
            start = end;
        }
        Ok(decoder)
    }

    fn finished(decoder: ListingDecoder) -> Result<Vec<(String, Value)>> {
        let answer =
            Answer { status: StatusCode::OK, index: Some(1), body: Bytes::new(), idempotence: Idempotence::Repeatable };
        let (entries, state) = decoder.finish(&answer)?;
        assert_eq!(state.len(), entries.len());
        for (row, (key, value)) in entries.iter().enumerate() {
            assert_eq!((state.key(row), state.modify_index(row)), (key.as_str(), value.index));
        }
        Ok(entries)
    }

    /// What a JSON parser reads in the whole body.
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
        fn where_a_body_is_cut_makes_no_difference(body in entries(), ends in any::<[Index; 3]>()) {
            let decoder = fed(body.as_bytes(), &ends, "").expect("entries");
            prop_assert!(!decoder.is_json);
            prop_assert_eq!(finished(decoder).ok(), by_json(body.as_bytes(), ""));
        }

        #[test]
        fn a_broken_body_is_read_as_json_reads_it(
            body in broken(), ends in any::<[Index; 3]>(), prefix in "[ab]?",
        ) {
            let read = fed(&body, &ends, &prefix).and_then(finished);
            prop_assert_eq!(read.ok(), by_json(&body, &prefix));
        }
    }

    #[test]
    fn any_json_is_read_whatever_its_form() {
        let entry = |key: &str| {
            format!(r#"{{"LockIndex":0,"Key":"{key}","Flags":1,"Value":"eA==","CreateIndex":1,"ModifyIndex":2}}"#)
        };
        let [a, ab, b] = ["a", "ab", "b"].map(entry);
        let read = |body: &str| {
            assert_eq!(fed(body.as_bytes(), &[], "a").and_then(finished).ok(), by_json(body.as_bytes(), "a"));
            let keys = fed(body.as_bytes(), &[], "a").and_then(finished).ok()?;
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
    fn a_brace_in_a_key_that_is_cut_in_two_is_left_to_json() {
        let mut decoder = ListingDecoder::new("");
        for piece in [r#"[{"LockIndex":0,"Key":"a"#, "}b", r#"}","CreateIndex":1,"ModifyIndex":2}]"#] {
            decoder.piece(piece.as_bytes()).expect("nothing is wrong yet");
        }
        assert!(decoder.is_json);
        assert_eq!(finished(decoder).expect("entries"), [("a}b}".to_owned(), Value::new("", 2))]);
    }
}
