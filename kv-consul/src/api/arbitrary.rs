//! Property tests: arbitrary bytes as an answer are read or refused, and never cause a panic.

use kv_core::backend::fate::Idempotence;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::StatusCode;
use tokio::time::Instant;

use super::answer::Answer;
use super::listing::Listing;
use super::messages::{AgentSelf, CreatedSession, ReadAnswer};
use super::state::Scope;
use super::transaction::outcome;
use crate::error::{Reply, from_answer, go_duration, refusal, ttl_bounds};

/// The same input in every run, so that a failure can be repeated.
pub(crate) fn config() -> ProptestConfig {
    let rng_seed = RngSeed::Fixed(7);
    ProptestConfig { cases: 2000, failure_persistence: None, rng_seed, ..ProptestConfig::default() }
}

/// Reads a body as every kind of answer, and uses the result.
fn read_all(body: &[u8], index: Option<u64>) {
    for status in [StatusCode::OK, StatusCode::NOT_FOUND, StatusCode::CONFLICT] {
        let answer = Answer { status, index, body: Bytes::copy_from_slice(body), idempotence: Idempotence::Repeatable };
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
        assert!(answer.unexpected().to_string().len() < 2000);
        let (agent, idempotence) = ("a:1", Idempotence::Once);
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        let reply = Reply { agent, status, is_plain: true, body, idempotence, sent: 0, path: 0 };
        assert!(from_answer(&reply).to_string().len() < 2000);
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

/// A server's answer with some bytes replaced, and perhaps without its end.
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
    (body, changes, proptest::option::weighted(0.2, any::<prop::sample::Index>())).prop_map(|(body, changes, end)| {
        let mut bytes = body.to_string().into_bytes();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(end) = end {
            bytes.truncate(end.index(bytes.len() + 1));
        }
        bytes
    })
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn arbitrary_bytes_never_cause_a_panic(body in any::<Vec<u8>>(), index in any::<Option<u64>>()) {
        read_all(&body, index);
    }

    #[test]
    fn a_broken_answer_never_causes_a_panic(body in mutated(), index in any::<Option<u64>>()) {
        read_all(&body, index);
    }

    #[test]
    fn arbitrary_text_of_an_error_never_causes_a_panic(text in any::<String>(), numbers in "[0-9.hms]{0,30}") {
        let _ = (refusal(&text), ttl_bounds(&text), go_duration(&text), go_duration(&numbers));
        let _ = ttl_bounds(&format!("Session TTL '{text}', must be between [{numbers}={numbers}]"));
    }
}
