//! What it costs to tell what changed between two listings of 50,000 entries.
//!
//! `cargo bench -p kv-consul --bench diff`. The module is compiled into this program as it stands: it needs nothing else
//! of the crate, and need not be public for being measured.

#[allow(dead_code, unused_imports, reason = "not all of it is measured, and its tests are not run from here")]
#[path = "../src/diff.rs"]
mod diff;

use diff::{Scope, State};
use divan::counter::ItemsCount;
use divan::{AllocProfiler, Bencher, black_box};

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

const ENTRIES: u64 = 50_000;

/// The entries, of which every `step`th was written after the rest.
fn state(step: u64) -> State {
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

/// By how many entries there are for each that changed.
#[divan::bench(args = [1, 100, 50_000])]
fn changes(bencher: Bencher<'_, '_>, step: u64) {
    let (older, newer) = (state(u64::MAX), state(step));
    bencher.counter(ItemsCount::new(ENTRIES)).bench(|| black_box(&older).changes(&newer, Scope::Prefix(""), 1));
}

#[divan::bench]
fn changes_of_another_directory(bencher: Bencher<'_, '_>) {
    let (older, newer) = (state(u64::MAX), state(1));
    bencher.bench(|| black_box(&older).changes(&newer, Scope::Prefix("services/web/"), 1));
}

#[divan::bench]
fn is_same(bencher: Bencher<'_, '_>) {
    let (older, newer) = (state(u64::MAX), state(u64::MAX));
    bencher.counter(ItemsCount::new(ENTRIES)).bench(|| black_box(&older).is_same(&newer, Scope::Prefix("")));
}
