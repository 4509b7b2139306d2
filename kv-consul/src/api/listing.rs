//! All entries of a scope at one moment, as a watch needs them.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use kv_core::{Result, Value};
use tokio::time::Instant;

use super::answer::Answer;
use super::entries::{Values, decode, entries_of};
use super::lock::is_lock;
use super::state::{Scope, State};

/// All entries of a scope at one moment. The values stay in the JSON that they came in until they are needed.
pub(crate) struct Listing {
    /// When the request was sent. A consistent read contains everything that was seen before this moment.
    pub(crate) asked: Instant,
    /// When the answer came.
    pub(crate) received: Instant,
    /// `X-Consul-Index`: the largest index of an entry that exists, or was recently deleted, under the path. If there
    /// is nothing, it is the index of the last write anywhere in the store.
    pub(crate) index: u64,
    pub(crate) state: Arc<State>,
    body: Bytes,
    /// Where in `body` the base64 of each row's value is.
    values: Vec<Range<usize>>,
}

impl Listing {
    /// Reads the entries that are in `scope`.
    pub(crate) fn parse(answer: &Answer, asked: Instant, scope: Scope<'_>) -> Result<Self> {
        let received = Instant::now();
        let index = answer.index()?;
        let entries = entries_of(answer, scope)?;
        let mut state = State::with_capacity(entries.len());
        let mut values = Vec::with_capacity(entries.len());
        for entry in &entries {
            if is_lock(&entry.key, entry.flags) {
                state.push_lock(&entry.key, entry.create_index, entry.modify_index);
            } else {
                state.push(&entry.key, entry.create_index, entry.modify_index);
            }
            let text = entry.value.unwrap_or_default();
            let start = if text.is_empty() { 0 } else { text.as_ptr() as usize - answer.body.as_ptr() as usize };
            values.push(start..start + text.len());
        }
        Ok(Self { asked, received, index, state: Arc::new(state), body: answer.body.clone(), values })
    }

    /// The decoded value of a row.
    pub(crate) fn value(&self, row: usize) -> Result<Bytes> {
        decode(&self.body[self.values[row].clone()])
    }

    /// All entries but those of locks, decoded.
    pub(crate) fn entries(&self) -> Result<Vec<(String, Value)>> {
        let mut values = Values::of(self.values.iter().map(ExactSizeIterator::len));
        let entry = |row: usize| {
            let data = values.decode(&self.body[self.values[row].clone()])?;
            Ok((self.state.key(row).to_owned(), Value { data, index: self.state.modify_index(row) }))
        };
        (0..self.state.len()).filter(|row| !self.state.is_lock(*row)).map(entry).collect()
    }
}

#[cfg(test)]
mod tests {
    use hyper::StatusCode;
    use kv_core::backend::fate::Idempotence;

    use super::*;
    use crate::api::lock::LOCK_FLAGS;

    #[test]
    fn a_listing_is_sorted_and_decoded() {
        let body = br#"[{"Key":"b","CreateIndex":1,"ModifyIndex":2,"Value":"eA=="},{"Key":"a","CreateIndex":1,"ModifyIndex":1,"Value":null}]"#;
        let answer = Answer {
            status: StatusCode::OK,
            index: Some(2),
            body: Bytes::from_static(body),
            idempotence: Idempotence::Repeatable,
        };
        let listing = Listing::parse(&answer, Instant::now(), Scope::Prefix("")).expect("a listing");
        let entries = listing.entries().expect("its entries");
        assert_eq!(entries, [("a".to_owned(), Value::new("", 1)), ("b".to_owned(), Value::new("x", 2))]);
    }

    #[test]
    fn entries_of_locks_are_in_the_state_alone() {
        let entry =
            |flags| format!(r#"[{{"Key":"a/.lock","Flags":{flags},"CreateIndex":1,"ModifyIndex":1,"Value":null}}]"#);
        for (flags, is_lock) in [(LOCK_FLAGS, true), (0, false)] {
            let answer = Answer {
                status: StatusCode::OK,
                index: Some(2),
                body: entry(flags).into(),
                idempotence: Idempotence::Repeatable,
            };
            let listing = Listing::parse(&answer, Instant::now(), Scope::Prefix("")).expect("a listing");
            assert_eq!((listing.state.len(), listing.state.is_lock(0)), (1, is_lock));
            assert_eq!(listing.entries().expect("its entries").is_empty(), is_lock);
        }
    }
}
