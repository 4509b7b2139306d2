//! The cost of decoding a page of 10,000 keys, as etcd sends it.
//!
//! `cargo bench -p kv-etcd --bench decode`. The files of the decoder are compiled into this program: they depend on
//! nothing else in the crate, and so they need not be public in order to be measured.

#[expect(dead_code, unused_imports, reason = "not every message is measured")]
#[path = "../src/api/messages/mod.rs"]
mod messages;
#[expect(dead_code, reason = "not every field of a page is used")]
#[path = "../src/api/page.rs"]
mod page;
#[allow(dead_code, unused_imports, reason = "its unit tests are not run here")]
#[path = "../src/api/values.rs"]
mod values;

use bytes::Bytes;
use divan::counter::{BytesCount, ItemsCount};
use divan::{AllocProfiler, Bencher, black_box};
use messages::{KeyValue, RangeResponse, ResponseHeader};
use page::{Malformed, Page};
use prost::Message as _;
use values::Values;

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
        lease: 0,
    });
    let header = ResponseHeader { revision: KEYS, ..ResponseHeader::default() };
    RangeResponse { header: Some(header), kvs: kvs.collect(), ..RangeResponse::default() }
}

/// The arguments are sizes of a value, in bytes. Keys become strings, and values are copied out of the message.
#[divan::bench(args = [16, 128, 4096])]
fn read(bencher: Bencher<'_, '_>, value_bytes: usize) {
    let message = Bytes::from(range(value_bytes).encode_to_vec());
    bencher.counter(ItemsCount::new(KEYS.unsigned_abs())).counter(BytesCount::new(message.len())).bench(|| {
        let (mut entries, mut values) = (Vec::new(), Values::default());
        let page = Page::read(black_box(&message), |entry| {
            let key = str::from_utf8(entry.key).map_err(|_| Malformed)?;
            let copy = values.copy(entry.value, message.len());
            entries.push((key.to_owned(), copy.unwrap_or_else(|| message.slice_ref(entry.value))));
            Ok::<_, Malformed>(())
        });
        page.map(|_| entries)
    });
}
