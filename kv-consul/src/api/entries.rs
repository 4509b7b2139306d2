//! Decoding of entries and of their values.

use base64::Engine as _;
use base64::decoded_len_estimate;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use hyper::StatusCode;
use kv_core::{Error, Result};

use super::answer::Answer;
use super::messages::Entry;
use super::scan;
use super::state::Scope;

/// The entries of an answer about keys; none if Consul says that there are none.
pub(crate) fn entries(answer: &Answer) -> Result<Vec<Entry<'_>>> {
    if answer.status == StatusCode::NOT_FOUND {
        return Ok(Vec::new());
    }
    match scan::list(&answer.body) {
        Some(entries) => Ok(entries),
        None => from_json(&answer.body, answer),
    }
}

/// The entries of an answer that are in a scope, sorted by key, each once.
pub(crate) fn entries_of<'a>(answer: &'a Answer, scope: Scope<'_>) -> Result<Vec<Entry<'a>>> {
    let mut entries = entries(answer)?;
    entries.retain(|entry| scope.has(&entry.key));
    // Consul lists in this order. The callers rely on the order, so it is checked here.
    if !entries.is_sorted_by(|a, b| a.key < b.key) {
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        entries.dedup_by(|a, b| a.key == b.key);
    }
    Ok(entries)
}

/// Reads entries in any form that is JSON.
pub(crate) fn from_json<'a>(text: &'a [u8], answer: &Answer) -> Result<Vec<Entry<'a>>> {
    // One UTF-8 check of the whole text is faster than one for each string in it.
    let text = std::str::from_utf8(text).map_err(|error| answer.unexpected().with_source(error))?;
    serde_json::from_str(text).map_err(|error| answer.unexpected().with_source(error))
}

/// Decodes the values of a listing into one piece of memory: an allocation for each value costs more than decoding it.
pub(crate) struct Values(BytesMut);

impl Values {
    /// Makes room for values whose base64 has these lengths.
    pub(crate) fn of(lengths: impl Iterator<Item = usize>) -> Self {
        Self(BytesMut::with_capacity(lengths.map(decoded_len_estimate).sum()))
    }

    pub(crate) fn decode(&mut self, text: &[u8]) -> Result<Bytes> {
        self.0.resize(decoded_len_estimate(text.len()), 0);
        let length = STANDARD.decode_slice(text, &mut self.0).map_err(not_base64)?;
        self.0.truncate(length);
        Ok(self.0.split().freeze())
    }
}

/// Decodes one value.
pub(crate) fn decode(text: &[u8]) -> Result<Bytes> {
    STANDARD.decode(text).map(Bytes::from).map_err(not_base64)
}

fn not_base64(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::unexpected_answer("a value that is not base64").with_source(error)
}
