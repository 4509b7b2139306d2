//! The cost of the store's operations through [`Kv`], in time and in allocations.
//!
//! `cargo bench -p kv-memory --bench store`; for one of them add its name: `-- get_all`.

use std::sync::Arc;

use bytes::Bytes;
use divan::counter::ItemsCount;
use divan::{AllocProfiler, Bencher, black_box};
use kv_core::{Kv, Registry, Value};
use kv_memory::MemoryBackend;
use tokio::runtime::Runtime;

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

const KEYS: usize = 10_000;
const KEY: &str = "services/api/005000/port";

/// A store with keys in it, and a runtime to call it in.
struct Filled {
    runtime: Runtime,
    kv: Kv,
}

fn filled(keys: usize) -> Filled {
    let runtime = runtime();
    let kv = Kv::new(Arc::new(MemoryBackend::new()));
    runtime.block_on(fill_with(&kv, keys));
    Filled { runtime, kv }
}

async fn fill_with(kv: &Kv, keys: usize) {
    for number in 0..keys {
        kv.set(&format!("services/api/{number:06}/port"), data()).await.expect("a key is set");
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime")
}

fn data() -> Bytes {
    Bytes::from(vec![b'x'; 100])
}

#[divan::bench(threads = [1, 2], sample_size = 1000)]
fn get(bencher: Bencher<'_, '_>) {
    let Filled { kv, .. } = filled(KEYS);
    bencher.bench(|| now(kv.get(black_box(KEY))).expect("it exists"));
}

#[divan::bench(sample_size = 100)]
fn get_below_a_root(bencher: Bencher<'_, '_>) {
    let Filled { kv, .. } = filled(KEYS);
    let kv = kv.scoped("services/api").expect("a directory");
    bencher.bench(|| now(kv.get(black_box("005000/port"))).expect("it exists"));
}

#[divan::bench(sample_size = 100)]
fn get_of_an_absent_key(bencher: Bencher<'_, '_>) {
    let Filled { kv, .. } = filled(KEYS);
    bencher.bench(|| now(kv.get(black_box("absent"))).expect_err("it does not exist"));
}

#[divan::bench(threads = [1, 2], sample_size = 1000)]
fn set(bencher: Bencher<'_, '_>) {
    let Filled { kv, .. } = filled(KEYS);
    let data = data();
    bencher.bench(|| now(kv.set(black_box(KEY), data.clone())).expect("it is set"));
}

#[divan::bench(sample_size = 100)]
fn update(bencher: Bencher<'_, '_>) {
    let Filled { kv, .. } = filled(KEYS);
    let data = data();
    let mut index = now(kv.get(KEY)).expect("it exists").index;
    bencher.bench_local(|| index = now(kv.update(KEY, Value::new(data.clone(), index))).expect("nobody else writes"));
}

#[divan::bench(sample_size = 100)]
fn set_and_delete(bencher: Bencher<'_, '_>) {
    let Filled { kv, .. } = filled(KEYS);
    let data = data();
    bencher.bench_local(|| {
        now(kv.set(black_box("services/new"), data.clone())).expect("it is set");
        now(kv.delete(black_box("services/new"))).expect("it is deleted");
    });
}

/// One write of a key that this many watches cover, none of which is read. As many watches cover another key.
#[divan::bench(args = [0, 1, 100, 10_000])]
fn set_under_watches(bencher: Bencher<'_, '_>, watches: usize) {
    let Filled { runtime, kv } = filled(KEYS);
    let _watches = runtime.block_on(async {
        let mut open = Vec::new();
        for number in 0..watches {
            open.push(kv.watch("services/api/", 0).await.expect("a watch"));
            open.push(kv.watch(&format!("others/{number}/"), 0).await.expect("a watch"));
        }
        open
    });
    let data = data();
    bencher.bench_local(|| now(kv.set(black_box(KEY), data.clone())).expect("it is set"));
}

/// A write and the reading of its event.
#[divan::bench(sample_size = 100)]
fn set_and_next_event(bencher: Bencher<'_, '_>) {
    let Filled { runtime, kv } = filled(KEYS);
    let data = data();
    let mut watch = runtime.block_on(kv.watch("services/", 0)).expect("a watch");
    bencher.bench_local(|| {
        now(kv.set(black_box(KEY), data.clone())).expect("it is set");
        now(watch.next()).expect("it goes on").expect("an event")
    });
}

#[divan::bench(args = [1_000, 10_000, 100_000])]
fn get_all(bencher: Bencher<'_, '_>, keys: usize) {
    let Filled { runtime, kv } = filled(keys);
    bencher.counter(ItemsCount::new(keys)).bench_local(|| runtime.block_on(kv.get_all("")).expect("a listing"));
}

#[divan::bench(args = [1_000, 10_000, 100_000])]
fn get_all_below_a_root(bencher: Bencher<'_, '_>, keys: usize) {
    let Filled { runtime, kv } = filled(keys);
    let kv = kv.scoped("services").expect("a directory");
    bencher.counter(ItemsCount::new(keys)).bench_local(|| runtime.block_on(kv.get_all("")).expect("a listing"));
}

/// How much memory a store keeps, in the column `max alloc`. Keys have 24 bytes and 100 bytes of data each, and are
/// written once; the history has one event or the default number.
#[divan::bench(args = [1_000, 10_000, 100_000], consts = [1, 10_000], sample_count = 5, sample_size = 1)]
fn fill<const HISTORY: usize>(bencher: Bencher<'_, '_>, keys: usize) {
    let runtime = runtime();
    let registry = Registry::new().with(kv_memory::REGISTRATION);
    let address = format!("memory://?history={HISTORY}");
    bencher.counter(ItemsCount::new(keys)).bench_local(|| {
        runtime.block_on(async {
            let kv = registry.connect(&address).await.expect("a store");
            fill_with(&kv, keys).await;
            kv
        })
    });
}

#[divan::bench(sample_size = 100)]
fn lock_and_unlock(bencher: Bencher<'_, '_>) {
    let Filled { runtime, kv } = filled(KEYS);
    bencher.bench_local(|| {
        runtime.block_on(async {
            let lock = kv.lock("lock", std::time::Duration::from_secs(60)).await.expect("a lock");
            lock.unlock().await.expect("still held");
        });
    });
}

/// The answer of a call, which this store gives at once.
fn now<T>(call: impl Future<Output = T>) -> T {
    futures_util::FutureExt::now_or_never(call).expect("this store answers at once")
}
