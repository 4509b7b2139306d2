//! The cost of finding what changed between two listings of 50,000 entries.
//!
//! `cargo bench -p kv-consul --bench diff`. Both modules are compiled into this program, so that they can be measured
//! without being public.

#[allow(dead_code, unused_imports, reason = "not all of it is measured, and its tests are not run from here")]
#[path = "../src/watch/diff.rs"]
mod diff;
#[allow(dead_code, unused_imports, reason = "not all of it is measured, and its tests are not run from here")]
#[path = "../src/api/state.rs"]
mod state;

/// The path by which `diff` names the other module.
mod api {
    pub(crate) use crate::state;
}

use divan::counter::ItemsCount;
use divan::{AllocProfiler, Bencher, black_box};
use state::{Scope, State};

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

const ENTRIES: u64 = 50_000;

/// The entries, of which every `step`th was written after the rest.
fn entries(step: u64) -> State {
    let mut state = State::with_capacity(50_000);
    for entry in 0..ENTRIES {
        let modify = if entry % step == 0 { ENTRIES + entry } else { entry };
        state.push(&format!("services/api/instances/{entry:06}/address"), entry, modify + 1);
    }
    state
}

#[divan::bench]
fn build(bencher: Bencher<'_, '_>) {
    let keys: Vec<_> = (0..ENTRIES).map(|entry| format!("services/api/instances/{entry:06}/address")).collect();
    bencher.counter(ItemsCount::new(ENTRIES)).bench(|| {
        let mut state = State::with_capacity(keys.len());
        for key in &keys {
            state.push(key, 1, 1);
        }
        state
    });
}

/// The argument is the number of entries for each one that changed.
#[divan::bench(args = [1, 100, 50_000])]
fn changes(bencher: Bencher<'_, '_>, step: u64) {
    let (older, newer) = (entries(u64::MAX), entries(step));
    bencher.counter(ItemsCount::new(ENTRIES)).bench(|| diff::changes(black_box(&older), &newer, Scope::Prefix(""), 1));
}

#[divan::bench]
fn changes_of_another_directory(bencher: Bencher<'_, '_>) {
    let (older, newer) = (entries(u64::MAX), entries(1));
    bencher.bench(|| diff::changes(black_box(&older), &newer, Scope::Prefix("services/web/"), 1));
}

#[divan::bench]
fn is_same(bencher: Bencher<'_, '_>) {
    let (older, newer) = (entries(u64::MAX), entries(u64::MAX));
    bencher.counter(ItemsCount::new(ENTRIES)).bench(|| black_box(&older).is_same(&newer, Scope::Prefix("")));
}
