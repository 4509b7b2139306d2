//! Reads, and what a listing is made of.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::decoded_len_estimate;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use hyper::StatusCode;
use kv_core::{Error, Result, Snapshot, Value};
use tokio::time::Instant;

use crate::agent::Answer;
use crate::blocking::limit;
use crate::client::{Client, LISTING, NAMES, SMALL};
use crate::diff::{Scope, State};
use crate::error::{self, Kind};
use crate::path;
use crate::scan;
use crate::txn::{Outcome, fault, outcome};
use crate::wire::{Entry, Operation, ReadAnswer, ReadResult};

/// Whose existence `ping` asks for: nothing.
const PING: &str = "/v1/kv/.kv-ping/";

/// Every entry of a scope at one moment, with the values still in the JSON they came in.
pub(crate) struct Listing {
    /// When the request was sent: what was seen before that is in it, if the read was consistent.
    pub(crate) asked: Instant,
    /// When it came.
    pub(crate) received: Instant,
    /// `X-Consul-Index`: the largest index of what is, or was lately deleted, under the path that was asked for; and
    /// where that is nothing, of any write to the store.
    pub(crate) index: u64,
    pub(crate) state: Arc<State>,
    body: Bytes,
    /// Where in `body` the base64 of each row's value stands.
    values: Vec<Range<usize>>,
}

impl Listing {
    /// The value of a row, decoded.
    pub(crate) fn value(&self, row: usize) -> Result<Bytes> {
        decode(&self.body[self.values[row].clone()])
    }

    /// Every entry, decoded.
    pub(crate) fn entries(&self) -> Result<Vec<(String, Value)>> {
        let mut values = Values::of(self.values.iter().map(ExactSizeIterator::len));
        let entry = |row: usize| {
            let data = values.decode(&self.body[self.values[row].clone()])?;
            Ok((self.state.key(row).to_owned(), Value { data, index: self.state.modify_index(row) }))
        };
        (0..self.state.len()).map(entry).collect()
    }

    fn parse(answer: &Answer, asked: Instant, scope: Scope<'_>) -> Result<Self> {
        let received = Instant::now();
        let index = index(answer)?;
        let listed = listed(answer, scope)?;
        let mut state = State::with_capacity(listed.len());
        let mut values = Vec::with_capacity(listed.len());
        for entry in &listed {
            state.push(&entry.key, entry.create_index, entry.modify_index);
            let text = entry.value.unwrap_or_default();
            let start = if text.is_empty() { 0 } else { text.as_ptr() as usize - answer.body.as_ptr() as usize };
            values.push(start..start + text.len());
        }
        Ok(Self { asked, received, index, state: Arc::new(state), body: answer.body.clone(), values })
    }
}

/// Every entry below a prefix, and the state for who wants to watch from there.
#[derive(Debug, Default)]
pub(crate) struct Listed {
    pub(crate) entries: Vec<(String, Value)>,
    pub(crate) state: State,
}

/// A lock's entry, as far as locking goes.
#[derive(Debug)]
pub(crate) struct LockEntry {
    pub(crate) flags: u64,
    pub(crate) session: Option<String>,
    pub(crate) modify_index: u64,
}

impl Client {
    /// Succeeds if this is Consul, there is a leader, and a quorum follows it.
    pub(crate) async fn ping(&self) -> Result<()> {
        let result = self.get(self.target(PING, &["keys", "separator=/", "consistent"]), SMALL).await;
        match result.and_then(|answer| index(&answer)) {
            // The token is one that Consul knows, but it may not read everywhere; of the leader anybody may ask.
            Err(Error::PermissionDenied { context, .. }) if context.reason.contains("Permission denied") => {
                let answer = self.get(self.target("/v1/status/leader", &[]), SMALL).await?;
                match serde_json::from_slice::<String>(&answer.body) {
                    Ok(leader) if leader.is_empty() => Err(Error::unavailable("the cluster has no leader")),
                    Ok(_) => Ok(()),
                    Err(error) => Err(unexpected(&answer).with_source(error)),
                }
            }
            other => other.map(drop),
        }
    }

    /// Reads one key.
    pub(crate) async fn read(&self, key: &str) -> Result<Value> {
        if !path::is_queryable(key) {
            return self.read_by_txn(key).await;
        }
        let answer = self.get(self.target(&path::kv(key), &[self.consistency()]), SMALL).await?;
        index(&answer)?;
        let Some(entry) = entries(&answer)?.pop() else {
            return Err(Error::NotFound { key: key.to_owned() });
        };
        Ok(Value { data: decode(entry.value.unwrap_or_default())?, index: entry.modify_index })
    }

    /// Reads a key that no path can name, as the one operation of a transaction.
    async fn read_by_txn(&self, key: &str) -> Result<Value> {
        let body = serde_json::to_vec(&[Operation::get(key)])
            .map_err(|error| Error::unexpected_answer("a key that is no JSON").with_source(error))?;
        let target = self.target("/v1/txn", &[self.consistency()]);
        let answer = self.put(target, body.into(), Kind::Repeatable).await?;
        match outcome(&answer)? {
            Outcome::Refused(refused) => {
                Err(fault(&refused).unwrap_or_else(|| Error::NotFound { key: key.to_owned() }))
            }
            Outcome::Applied(_) => {
                let read: ReadAnswer<'_> =
                    serde_json::from_slice(&answer.body).map_err(|error| unexpected(&answer).with_source(error))?;
                match read.results.first() {
                    Some(ReadResult { kv }) => {
                        Ok(Value { data: decode(kv.value.unwrap_or_default())?, index: kv.modify_index })
                    }
                    // What the token may not read is left out.
                    None => Err(Error::permission_denied("Consul shows nothing of this key")),
                }
            }
        }
    }

    /// Reads what a lock's key holds, consistently.
    pub(crate) async fn read_lock(&self, key: &str) -> Result<(Listing, Option<LockEntry>)> {
        let asked = Instant::now();
        let (path, recurse) = place(Scope::Key(key));
        let answer = self.get(self.target(&path, &[recurse, "consistent"]), LISTING).await?;
        let listing = Listing::parse(&answer, asked, Scope::Key(key))?;
        let entry = entries(&answer)?.into_iter().find(|entry| entry.key == key).map(|entry| LockEntry {
            flags: entry.flags,
            session: entry.session.filter(|session| !session.is_empty()).map(str::to_owned),
            modify_index: entry.modify_index,
        });
        Ok((listing, entry))
    }

    /// Reads every key that begins with `prefix`; the state is for who wants to watch from there.
    pub(crate) async fn snapshot(&self, prefix: &str) -> Result<(Snapshot, State)> {
        let (path, recurse) = place(Scope::Prefix(prefix));
        let mut answer = self.get_list(self.target(&path, &[recurse, self.consistency()]), prefix).await?;
        let index = index(&answer)?;
        let Listed { entries, state } = match answer.arriving.take() {
            Some(arriving) => arriving.finish(&answer)?,
            None if answer.status == StatusCode::NOT_FOUND => Listed::default(),
            None => return Err(unexpected(&answer)),
        };
        Ok((Snapshot { entries, index }, state))
    }

    /// Reads every key of a scope, consistently: what a watch begins with.
    pub(crate) async fn list(&self, scope: Scope<'_>) -> Result<Listing> {
        let (path, recurse) = place(scope);
        let asked = Instant::now();
        let answer = self.get(self.target(&path, &[recurse, "consistent"]), LISTING).await?;
        Listing::parse(&answer, asked, scope)
    }

    /// Waits until the store has gone beyond `index` as far as the scope goes, and reads it then; 0 does not wait.
    ///
    /// It returns without a change too, when its time is up
    /// (<https://developer.hashicorp.com/consul/api-docs/features/blocking>).
    pub(crate) async fn next(&self, scope: Scope<'_>, index: u64, wait: Duration) -> Result<Listing> {
        let (path, recurse) = place(scope);
        let (from, time) = (format!("index={index}"), format!("wait={}s", wait.as_secs()));
        let target = self.target(&path, &[recurse, "consistent", &from, &time]);
        let asked = Instant::now();
        let answer = self.wait(target, limit(wait)).await?;
        Listing::parse(&answer, asked, scope)
    }

    /// Lists what stands directly below `prefix`, which is empty or ends in `/`.
    pub(crate) async fn children(&self, prefix: &str) -> Result<Vec<String>> {
        let (known, separator) = match path::queryable(prefix) {
            known if known.len() == prefix.len() => (known, "separator=/"),
            // What is asked for lies somewhere below this.
            known => (known, ""),
        };
        let target = self.target(&path::kv(known), &["keys", separator, self.consistency()]);
        let answer = self.get(target, NAMES).await?;
        index(&answer)?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(Vec::new());
        }
        let mut keys: Vec<String> =
            serde_json::from_slice(&answer.body).map_err(|error| unexpected(&answer).with_source(error))?;
        // An entry that is named like the directory itself is none of its children.
        keys.retain(|key| key.len() > prefix.len() && key.starts_with(prefix));
        if separator.is_empty() {
            for key in &mut keys {
                let end = key[prefix.len()..].find('/').map_or(key.len(), |slash| prefix.len() + slash + 1);
                key.truncate(end);
            }
            keys.sort_unstable();
            keys.dedup();
        }
        Ok(keys)
    }
}

/// Where a scope is read, and how.
fn place(scope: Scope<'_>) -> (String, &'static str) {
    match scope {
        Scope::Key(key) if path::is_queryable(key) => (path::kv(key), ""),
        Scope::Key(text) | Scope::Prefix(text) => (path::kv(path::queryable(text)), "recurse"),
    }
}

/// The index of an answer about keys, which no other kind of server sends.
fn index(answer: &Answer) -> Result<u64> {
    // Consul asks for 0, which means nothing was ever written, to be taken for 1.
    answer.index.map(|index| index.max(1)).ok_or_else(|| unexpected(answer))
}

/// The entries of an answer about keys; none if it says that there is none.
fn entries(answer: &Answer) -> Result<Vec<Entry<'_>>> {
    if answer.status == StatusCode::NOT_FOUND {
        return Ok(Vec::new());
    }
    if let Some(entries) = scan::list(&answer.body) {
        return Ok(entries);
    }
    json(&answer.body, answer)
}

/// Reads entries in any notation that is JSON.
pub(crate) fn json<'a>(text: &'a [u8], answer: &Answer) -> Result<Vec<Entry<'a>>> {
    // All at once, for to look at each string by itself takes longer.
    let text = std::str::from_utf8(text).map_err(|error| unexpected(answer).with_source(error))?;
    serde_json::from_str(text).map_err(|error| unexpected(answer).with_source(error))
}

/// The entries of an answer that a scope has, sorted by key, each once.
fn listed<'a>(answer: &'a Answer, scope: Scope<'_>) -> Result<Vec<Entry<'a>>> {
    let mut listed = entries(answer)?;
    listed.retain(|entry| scope.has(&entry.key));
    // Consul lists in this order; that the rest relies on it is no reason to rely on Consul.
    if !listed.is_sorted_by(|a, b| a.key < b.key) {
        listed.sort_by(|a, b| a.key.cmp(&b.key));
        listed.dedup_by(|a, b| a.key == b.key);
    }
    Ok(listed)
}

/// The values of a listing, decoded into one piece of memory: an allocation for each would take longer than decoding.
pub(crate) struct Values(BytesMut);

impl Values {
    /// For values whose base64 has these lengths.
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

fn decode(text: &[u8]) -> Result<Bytes> {
    STANDARD.decode(text).map(Bytes::from).map_err(not_base64)
}

fn not_base64(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::unexpected_answer("a value that is not base64").with_source(error)
}

/// Neither an error that Consul reports nor an answer that it gives.
pub(crate) fn unexpected(answer: &Answer) -> Error {
    let (status, text) = (answer.status.as_u16(), error::excerpt(&answer.body));
    Error::unexpected_answer(format!("this is not how Consul answers: {status} with {text}"))
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    use super::*;
    use crate::error::{from_answer, go_duration, refusal, ttl_bounds};
    use crate::wire::{AgentSelf, CreatedSession};

    /// The same input every time: what is found here is found by whoever looks.
    pub(crate) fn config() -> ProptestConfig {
        let rng_seed = RngSeed::Fixed(7);
        ProptestConfig { cases: 2000, failure_persistence: None, rng_seed, ..ProptestConfig::default() }
    }

    /// Reads a body as everything that a server answers, and uses what it turns out to be.
    fn read_all(body: &[u8], index: Option<u64>) {
        for status in [StatusCode::OK, StatusCode::NOT_FOUND, StatusCode::CONFLICT] {
            let answer = Answer { status, index, body: Bytes::copy_from_slice(body), arriving: None };
            for scope in [Scope::Prefix(""), Scope::Prefix("a"), Scope::Key("a")] {
                let Ok(listing) = Listing::parse(&answer, Instant::now(), scope) else { continue };
                let keys: Vec<&str> = (0..listing.state.len()).map(|row| listing.state.key(row)).collect();
                assert!(keys.is_sorted_by(|a, b| a < b) && keys.iter().all(|key| scope.has(key)), "{keys:?}");
                assert!(listing.index > 0);
                let _ = listing.entries();
            }
            let _ = outcome(&answer);
            let _ = serde_json::from_slice::<ReadAnswer<'_>>(body);
            let _ = serde_json::from_slice::<Vec<String>>(body);
            let _ = serde_json::from_slice::<AgentSelf>(body);
            let _ = serde_json::from_slice::<CreatedSession>(body);
            assert!(unexpected(&answer).to_string().len() < 2000);
            assert!(from_answer(StatusCode::INTERNAL_SERVER_ERROR, body, Kind::Once).to_string().len() < 2000);
        }
    }

    fn entry() -> impl Strategy<Value = serde_json::Value> {
        let index = prop_oneof![0..9_u64, any::<u64>()];
        (".{0,4}", index.clone(), index, any::<u64>(), vec(any::<u8>(), 0..9)).prop_map(
            |(key, create, modify, flags, value)| {
                serde_json::json!({
                    "Key": key, "CreateIndex": create, "ModifyIndex": modify, "Flags": flags, "Session": key,
                    "Value": (!value.is_empty()).then(|| STANDARD.encode(value)),
                })
            },
        )
    }

    /// What a server answers, with some of its bytes replaced, and perhaps its end missing.
    fn mutated() -> impl Strategy<Value = Vec<u8>> {
        let body = prop_oneof![
            vec(entry(), 0..5).prop_map(serde_json::Value::from),
            vec(entry(), 0..3).prop_map(|entries| {
                let results: Vec<_> = entries.into_iter().map(|entry| serde_json::json!({ "KV": entry })).collect();
                serde_json::json!({ "Results": results, "Errors": null })
            }),
            (0..9, ".{0,9}").prop_map(|(at, what)| serde_json::json!({ "Errors": [{ "OpIndex": at, "What": what }] })),
        ];
        let changes = vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
        (body, changes, proptest::option::weighted(0.2, any::<prop::sample::Index>())).prop_map(
            |(body, changes, end)| {
                let mut bytes = body.to_string().into_bytes();
                for (at, byte) in changes {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
                if let Some(end) = end {
                    bytes.truncate(end.index(bytes.len() + 1));
                }
                bytes
            },
        )
    }

    proptest! {
        #![proptest_config(config())]

        #[test]
        fn any_bytes_are_an_answer_or_none(body in any::<Vec<u8>>(), index in any::<Option<u64>>()) {
            read_all(&body, index);
        }

        #[test]
        fn a_broken_answer_is_an_answer_or_none(body in mutated(), index in any::<Option<u64>>()) {
            read_all(&body, index);
        }

        #[test]
        fn any_text_is_read_or_means_nothing(text in any::<String>(), numbers in "[0-9.hms]{0,30}") {
            let _ = (refusal(&text), ttl_bounds(&text), go_duration(&text), go_duration(&numbers));
            let _ = ttl_bounds(&format!("Session TTL '{text}', must be between [{numbers}={numbers}]"));
        }
    }

    #[test]
    fn an_answer_that_is_whole_is_read() {
        let body = br#"[{"Key":"b","CreateIndex":1,"ModifyIndex":2,"Value":"eA=="},{"Key":"a","CreateIndex":1,"ModifyIndex":1,"Value":null}]"#;
        let answer = Answer { status: StatusCode::OK, index: Some(2), body: Bytes::from_static(body), arriving: None };
        let listing = Listing::parse(&answer, Instant::now(), Scope::Prefix("")).expect("a listing");
        let entries = listing.entries().expect("its entries");
        assert_eq!(entries, [("a".to_owned(), Value::new("", 1)), ("b".to_owned(), Value::new("x", 2))]);
    }
}
