//! What it costs to decode a range of 10,000 keys, as etcd sends it.
//!
//! `cargo bench -p kv-etcd --bench decode`. The messages are compiled into this program as they stand: they need nothing
//! else of the crate, and need not be public for being measured.

#[expect(dead_code, reason = "not every message is measured")]
#[path = "../src/proto.rs"]
mod proto;

use bytes::Bytes;
use divan::counter::{BytesCount, ItemsCount};
use divan::{AllocProfiler, Bencher, black_box};
use prost::Message as _;
use proto::{KeyValue, RangeResponse, ResponseHeader};

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

const KEYS: i64 = 10_000;

fn range(value_bytes: usize) -> RangeResponse {
    let value = Bytes::from(vec![b'v'; value_bytes]);
    let kvs = (1..=KEYS).map(|number| KeyValue {
        key: format!("services/api/instances/{number:06}/address").into(),
        create_revision: number,
        mod_revision: number,
        value: value.clone(),
        ..KeyValue::default()
    });
    let header = ResponseHeader { revision: KEYS };
    RangeResponse { header: Some(header), kvs: kvs.collect(), ..RangeResponse::default() }
}

/// By the size of each value, in bytes. Keys and values share the memory of the message.
#[divan::bench(args = [16, 128, 4096])]
fn decode(bencher: Bencher<'_, '_>, value_bytes: usize) {
    let message = Bytes::from(range(value_bytes).encode_to_vec());
    bencher
        .counter(ItemsCount::new(KEYS.unsigned_abs()))
        .counter(BytesCount::new(message.len()))
        .bench(|| RangeResponse::decode(black_box(message.clone())).expect("a message"));
}
