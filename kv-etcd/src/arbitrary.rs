//! Arbitrary answers are decoded and used: the worst result is an error, never a panic.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use prost::Message;

use crate::api::messages::{
    AuthenticateResponse, DeleteRangeResponse, Event, KeyValue, LeaseGrantResponse, LeaseKeepAliveResponse,
    PutResponse, RangeResponse, Response, ResponseHeader, ResponseOp, StatusResponse, TxnResponse, WatchResponse,
};
use crate::api::page::{Entry, Malformed, Page};
use crate::api::range::{Keys, revision};
use crate::watch::reassembly::Reassembly;

/// The input is the same on every run, so that a failure can be repeated.
fn config() -> ProptestConfig {
    ProptestConfig { cases: 2000, failure_persistence: None, rng_seed: RngSeed::Fixed(7), ..ProptestConfig::default() }
}

/// Decodes bytes as each message that a server sends, and uses those that decode.
fn decode_all(bytes: &[u8]) {
    let _ = StatusResponse::decode(bytes);
    let _ = AuthenticateResponse::decode(bytes);
    let _ = LeaseGrantResponse::decode(bytes);
    let _ = LeaseKeepAliveResponse::decode(bytes);
    let _ = PutResponse::decode(bytes).map(|answer| revision(answer.header.as_ref()));
    let _ = DeleteRangeResponse::decode(bytes).map(|answer| revision(answer.header.as_ref()));
    let page = read_page(bytes);
    if let Ok(answer) = RangeResponse::decode(bytes) {
        use_range(&answer);
        // Each decoder accepts some input that the other refuses; where both accept it, they agree.
        assert!(page.is_none_or(|page| page == answer), "{answer:?}");
    }
    if let Ok(answer) = TxnResponse::decode(bytes) {
        use_txn(&answer);
    }
    if let Ok(answer) = WatchResponse::decode(bytes) {
        use_watch(vec![answer], 1);
    }
}

/// Reads bytes as a page, and builds the answer that the generated decoder would build from the same fields.
fn read_page(bytes: &[u8]) -> Option<RangeResponse> {
    let mut kvs = Vec::new();
    let page = Page::read(bytes, |entry| {
        let (key, value) = (Bytes::copy_from_slice(entry.key), Bytes::copy_from_slice(entry.value));
        let Entry { create_revision, mod_revision, lease, .. } = entry;
        kvs.push(KeyValue { key, create_revision, mod_revision, value, lease });
        Ok::<_, Malformed>(())
    });
    page.ok().map(|page| RangeResponse { header: page.header, kvs, more: page.more })
}

fn use_range(answer: &RangeResponse) {
    let _ = revision(answer.header.as_ref());
    let mut keys = Keys::default();
    for kv in &answer.kvs {
        let _ = keys.utf8(kv);
    }
    keys.done();
}

fn use_txn(answer: &TxnResponse) {
    let _ = revision(answer.header.as_ref());
    for part in &answer.responses {
        match &part.response {
            Some(Response::Range(range)) => use_range(range),
            Some(Response::Txn(txn)) => use_txn(txn),
            _ => {}
        }
    }
}

/// Reassembles the answers of a stream for a watch that has delivered everything before `next`.
fn use_watch(answers: Vec<WatchResponse>, mut next: i64) {
    let mut reassembly = Reassembly::default();
    for answer in answers {
        // Events that are out of order end the stream.
        let Ok(complete) = reassembly.join(answer.events, answer.fragment, next) else { return };
        let Some(batch) = complete else { continue };
        let indices: Vec<u64> = batch.changes.iter().map(|change| change.event.index).collect();
        assert!(indices.is_sorted(), "{indices:?}");
        assert!(indices.first().is_none_or(|first| *first >= next.cast_unsigned()), "{indices:?} from {next}");
        next = batch.last.saturating_add(1);
    }
}

fn any_bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..8).prop_map(Bytes::from)
}

/// Mostly numbers that are close to one another, and some extreme ones.
fn number() -> impl Strategy<Value = i64> {
    prop_oneof![8 => 0..20_i64, 1 => any::<i64>(), 1 => Just(i64::MAX), 1 => Just(i64::MIN)]
}

fn header() -> impl Strategy<Value = Option<ResponseHeader>> {
    proptest::option::of(number().prop_map(|revision| ResponseHeader { revision, cluster_id: 0 }))
}

fn key_value() -> impl Strategy<Value = KeyValue> {
    (any_bytes(), number(), number(), any_bytes(), number()).prop_map(
        |(key, create_revision, mod_revision, value, lease)| KeyValue {
            key,
            create_revision,
            mod_revision,
            value,
            lease,
        },
    )
}

fn range() -> impl Strategy<Value = RangeResponse> {
    (header(), vec(key_value(), 0..4), any::<bool>()).prop_map(|(header, kvs, more)| RangeResponse {
        header,
        kvs,
        more,
    })
}

fn txn() -> impl Strategy<Value = TxnResponse> {
    let part = range().prop_map(|range| ResponseOp { response: Some(Response::Range(range)) });
    (header(), any::<bool>(), vec(part, 0..4)).prop_map(|(header, succeeded, responses)| TxnResponse {
        header,
        succeeded,
        responses,
    })
}

fn watch() -> impl Strategy<Value = WatchResponse> {
    let event = (0..3, proptest::option::weighted(0.9, key_value()));
    let events = vec(event.prop_map(|(event_type, kv)| Event { event_type, kv }), 0..4);
    (number(), any::<bool>(), any::<bool>(), number(), ".{0,8}", any::<bool>(), events).prop_map(
        |(watch_id, created, canceled, compact_revision, cancel_reason, fragment, events)| WatchResponse {
            header: None,
            watch_id,
            created,
            canceled,
            compact_revision,
            cancel_reason,
            fragment,
            events,
        },
    )
}

/// An encoded message with some bytes replaced, and perhaps without its end.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let encoded = prop_oneof![
        range().prop_map(|message| message.encode_to_vec()),
        txn().prop_map(|message| message.encode_to_vec()),
        watch().prop_map(|message| message.encode_to_vec()),
    ];
    let changes = vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (encoded, changes, proptest::option::of(any::<prop::sample::Index>())).prop_map(|(mut bytes, changes, end)| {
        for (at, byte) in changes {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
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
    fn any_bytes_are_decoded_or_refused(bytes in any::<Vec<u8>>()) {
        decode_all(&bytes);
    }

    #[test]
    fn a_broken_answer_is_decoded_or_refused(bytes in mutated()) {
        decode_all(&bytes);
    }

    #[test]
    fn a_page_has_the_entries_that_the_generated_decoder_finds(answer in range()) {
        assert_eq!(read_page(&answer.encode_to_vec()), Some(answer));
    }

    #[test]
    fn events_of_any_stream_are_delivered_in_order(answers in vec(watch(), 0..12), next in 1..30_i64) {
        use_watch(answers, next);
    }
}
