//! The cost of the handle itself. On a store that answers at once: checking keys, adding and removing the root, and
//! building the transaction of a write. On a store that does not: the timer that limits the call.
//!
//! `cargo bench -p kv-core --bench handle`

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use divan::counter::ItemsCount;
use divan::{AllocProfiler, Bencher, black_box};
use futures_util::{FutureExt as _, StreamExt as _, stream};
use kv_core::backend::{Backend, EventStream, Grant, Snapshot, Txn};
use kv_core::{
    Error, Event, EventType, ExpiryLag, ForeignWrite, Kv, Limits, LockOrder, MemberLeave, Result, Value, WatchHistory,
};

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

const ROOT: &str = "organisation/production/";
const KEY: &str = "services/api/instances/0042/address";
/// The longest key.
const LONG_KEY_BYTES: usize = 4096;

/// A store without keys: every call has one answer, which is ready.
#[derive(Default)]
struct Ready {
    /// How many entries a listing has.
    entries: usize,
    /// How many times a call is polled before its value is ready.
    late: usize,
}

impl Ready {
    fn kv(entries: usize) -> Kv {
        Kv::new(Arc::new(Self { entries, ..Self::default() }))
    }
}

#[async_trait]
impl Backend for Ready {
    fn name(&self) -> &'static str {
        "ready"
    }

    fn limits(&self) -> Limits {
        Limits {
            key_bytes: LONG_KEY_BYTES + ROOT.len(),
            value_bytes: 1 << 20,
            txn_ops: 128,
            txn_bytes: 1 << 20,
            min_ttl: Duration::from_secs(1),
            max_ttl: Duration::from_secs(1),
            ttl_step: Duration::from_secs(1),
            expiry_lag: ExpiryLag { fixed: Duration::ZERO, ttls: 0 },
            watch_history: WatchHistory::Every,
            foreign_write: ForeignWrite::Keeps,
            lock_order: LockOrder::Asked,
            member_leave: MemberLeave::KeepsLeases,
        }
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }

    async fn get(&self, _key: &str) -> Result<Value> {
        let mut late = self.late;
        let value = poll_fn(|_| match late.checked_sub(1) {
            Some(fewer) => {
                late = fewer;
                Poll::Pending
            }
            None => Poll::Ready(Value::default()),
        });
        Ok(value.await)
    }

    async fn list(&self, prefix: &str) -> Result<Snapshot> {
        let key = |number| (format!("{prefix}{KEY}/{number:06}"), Value::default());
        Ok(Snapshot { entries: (0..self.entries).map(key).collect(), index: 1 })
    }

    async fn keys(&self, _prefix: &str) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    async fn commit(&self, _txn: Txn) -> Result<Option<u64>> {
        Ok(Some(1))
    }

    async fn watch(&self, prefix: &str, _after: u64) -> Result<EventStream> {
        let event =
            Event { key: format!("{prefix}{KEY}"), event_type: EventType::Update, data: bytes::Bytes::new(), index: 1 };
        Ok(stream::repeat_with(move || Ok(event.clone())).boxed())
    }

    async fn observe(&self, prefix: &str) -> Result<(Snapshot, EventStream)> {
        Ok((self.list(prefix).await?, self.watch(prefix, 0).await?))
    }

    async fn ephemeral_key(&self, _key: &str, _ttl: Duration) -> Result<Grant> {
        Err(Error::unavailable("no leases here"))
    }

    async fn lock(&self, _key: &str, _ttl: Duration) -> Result<Grant> {
        Err(Error::unavailable("no leases here"))
    }

    async fn try_lock(&self, _key: &str, _ttl: Duration) -> Result<Option<Grant>> {
        Err(Error::unavailable("no leases here"))
    }
}

/// A read without the store's work. Most of the time is the check of the key.
#[divan::bench(sample_size = 1000)]
fn get(bencher: Bencher<'_, '_>) {
    let kv = Ready::kv(0);
    bencher.bench(|| now(kv.get(black_box(KEY))));
}

/// A read from a store that does not answer at once, from several threads. It needs the timer.
#[divan::bench(sample_size = 1000, threads = [1, 2])]
fn get_that_is_waited_for(bencher: Bencher<'_, '_>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build();
    let runtime = runtime.expect("a runtime");
    // The handle polls twice before it waits.
    let kv = Kv::new(Arc::new(Ready { late: 2, ..Ready::default() }));
    bencher.bench(|| {
        let _entered = runtime.enter();
        let mut call = pin!(kv.get(black_box(KEY)));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(call.as_mut().poll(&mut cx).is_pending(), "the first time");
        now(call)
    });
}

#[divan::bench(sample_size = 1000)]
fn get_below_a_root(bencher: Bencher<'_, '_>) {
    let kv = Ready::kv(0).scoped(ROOT).expect("a directory");
    bencher.bench(|| now(kv.get(black_box(KEY))));
}

#[divan::bench(sample_size = 100)]
fn get_of_the_longest_key(bencher: Bencher<'_, '_>) {
    let kv = Ready::kv(0);
    let key = "segment/".repeat(LONG_KEY_BYTES / 8 - 1) + "segment";
    bencher.bench(|| now(kv.get(black_box(&key))));
}

#[divan::bench(sample_size = 1000)]
fn get_of_a_key_that_is_refused(bencher: Bencher<'_, '_>) {
    let kv = Ready::kv(0);
    bencher.bench(|| now(kv.get(black_box("services//api"))));
}

#[divan::bench(sample_size = 1000)]
fn set_below_a_root(bencher: Bencher<'_, '_>) {
    let kv = Ready::kv(0).scoped(ROOT).expect("a directory");
    bencher.bench(|| now(kv.set(black_box(KEY), "value")));
}

#[divan::bench]
fn txn_of_64_sets(bencher: Bencher<'_, '_>) {
    let kv = Ready::kv(0);
    let keys: Vec<_> = (0..64).map(|number| format!("{KEY}/{number}")).collect();
    bencher.bench(|| now(keys.iter().fold(kv.txn(), |txn, key| txn.set(key, "value")).commit()));
}

/// A listing with and without a root. Both include the work of the store, which builds the listing.
#[divan::bench(args = [false, true])]
fn get_all_of_10_000(bencher: Bencher<'_, '_>, rooted: bool) {
    let kv = Ready::kv(10_000);
    let kv = if rooted { kv.scoped(ROOT).expect("a directory") } else { kv };
    bencher.counter(ItemsCount::new(10_000_usize)).bench(|| now(kv.get_all("")));
}

#[divan::bench(args = [false, true], sample_size = 1000)]
fn next_event(bencher: Bencher<'_, '_>, rooted: bool) {
    let kv = Ready::kv(0);
    let kv = if rooted { kv.scoped(ROOT).expect("a directory") } else { kv };
    let mut watch = now(kv.watch("", 0)).expect("a watch");
    bencher.bench_local(|| now(watch.next()));
}

/// The answer of a call, which this store gives at once.
fn now<T>(call: impl Future<Output = T>) -> T {
    call.now_or_never().expect("this store answers at once")
}
