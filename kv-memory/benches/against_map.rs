//! The store compared with a `BTreeMap` in a `RwLock`, which has no history, watches, checks or limits.
//!
//! `cargo bench -p kv-memory --bench against_map` measures both in alternating rounds, and
//! prints the ratio of their throughputs: the median of the rounds, with the smallest and the largest. `-- get` leaves
//! the other operations out.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::{Arc, Barrier, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kv_core::{Kv, Value, Watch};
use kv_memory::MemoryBackend;
use tokio::runtime::Runtime;

const ROUNDS: usize = 21;
/// How many operations each thread makes in a round, on each of the two.
const OPERATIONS: u32 = 100_000;
const VALUE_BYTES: usize = 100;

fn main() {
    // Cargo says which it is. In a test one short round shows that everything works.
    let is_test = !std::env::args().any(|argument| argument == "--bench");
    let (rounds, operations) = if is_test { (1, 100) } else { (ROUNDS, OPERATIONS) };
    let named: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    println!("| operation | keys | threads | kv-memory, ns | map, ns | ratio of throughputs (median, range) |");
    println!("|---|---|---|---|---|---|");
    for keys in [100, 10_000, 100_000] {
        for threads in [1, 2] {
            for operation in Operation::ALL {
                if !named.is_empty() && !named.iter().any(|name| name == operation.name()) {
                    continue;
                }
                let rows = Contest::new(keys, threads, operation).rounds(rounds, operations);
                println!("| {} | {keys} | {threads} | {rows} |", operation.name());
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Get,
    Set,
    /// With a watch of everything for each thread, which reads an event after each of its writes.
    SetWatched,
    /// While another thread reads a watch of everything, so that writes keep waking it.
    SetReadAlong,
}

impl Operation {
    const ALL: [Self; 4] = [Self::Get, Self::Set, Self::SetWatched, Self::SetReadAlong];

    fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Set => "set",
            Self::SetWatched => "set-watched",
            Self::SetReadAlong => "set-read-along",
        }
    }
}

/// Both stores, with the same keys and values.
struct Contest {
    operation: Operation,
    threads: u32,
    keys: Vec<String>,
    kv: Kv,
    map: RwLock<BTreeMap<String, Value>>,
    /// The runtime that reads a watch, until it is dropped.
    _reader: Option<Runtime>,
}

impl Contest {
    fn new(keys: usize, threads: u32, operation: Operation) -> Self {
        let keys: Vec<_> = (0..keys).map(|number| format!("services/api/{number:06}/port")).collect();
        let kv = Kv::new(Arc::new(MemoryBackend::new()));
        let map = RwLock::new(BTreeMap::new());
        let fill = runtime();
        for key in &keys {
            // Each key has data of its own, so that threads do not contend for one reference count. The two stores
            // share it.
            let data = data();
            let index = fill.block_on(kv.set(key, data.clone())).expect("a key is set");
            map.write().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), Value::new(data, index));
        }
        let reader = (operation == Operation::SetReadAlong).then(|| read_along(&kv));
        Self { operation, threads, keys, kv, map, _reader: reader }
    }

    /// Measures both in alternating rounds; returns the last three columns of a row.
    fn rounds(&self, rounds: usize, operations: u32) -> String {
        let mut times = Vec::new();
        for round in 0..rounds {
            // The store that is first in one round is second in the next.
            let times_of_round = if round % 2 == 0 {
                let kv = self.time(operations, Self::on_kv);
                (kv, self.time(operations, Self::on_map))
            } else {
                let map = self.time(operations, Self::on_map);
                (self.time(operations, Self::on_kv), map)
            };
            times.push(times_of_round);
        }
        let per_operation = |time: Duration| time.as_secs_f64() * 1e9 / f64::from(operations * self.threads);
        let (kv, _, _) = spread(times.iter().map(|(kv, _)| per_operation(*kv)));
        let (map, _, _) = spread(times.iter().map(|(_, map)| per_operation(*map)));
        let (ratio, least, most) = spread(times.iter().map(|(kv, map)| map.as_secs_f64() / kv.as_secs_f64()));
        format!("{kv:.0} | {map:.0} | {ratio:.2} ({least:.2} to {most:.2})")
    }

    /// How long it takes until every thread has completed its operations.
    fn time(&self, operations: u32, work: fn(&Self, &mut dyn Iterator<Item = &String>)) -> Duration {
        let start = Barrier::new(self.threads as usize + 1);
        let mut began = Instant::now();
        thread::scope(|scope| {
            for thread in 0..self.threads {
                let (start, mut picked) = (&start, self.pick(thread + 1, operations));
                scope.spawn(move || {
                    start.wait();
                    work(self, &mut picked);
                });
            }
            start.wait();
            began = Instant::now();
        });
        began.elapsed()
    }

    /// Keys in a random order, the same for every round and for both stores.
    fn pick(&self, seed: u32, operations: u32) -> impl Iterator<Item = &String> + Send {
        let mut state = u64::from(seed).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (0..operations).map(move |_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            &self.keys[usize::try_from(state % self.keys.len() as u64).unwrap_or_default()]
        })
    }

    fn on_kv(&self, keys: &mut dyn Iterator<Item = &String>) {
        let data = data();
        runtime().block_on(async {
            let mut watch = match self.operation {
                Operation::SetWatched => Some(watch(&self.kv).await),
                _ => None,
            };
            for key in keys {
                if self.operation == Operation::Get {
                    black_box(self.kv.get(key).await.expect("the key exists"));
                } else {
                    black_box(self.kv.set(key, data.clone()).await.expect("the key is set"));
                }
                if let Some(watch) = &mut watch {
                    next_event(&self.kv, watch).await;
                }
            }
        });
    }

    fn on_map(&self, keys: &mut dyn Iterator<Item = &String>) {
        let data = data();
        for key in keys {
            if self.operation == Operation::Get {
                let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
                black_box(map.get(key).cloned().expect("the key exists"));
            } else {
                let value = Value::new(data.clone(), 1);
                let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
                black_box(map.insert(key.clone(), value));
            }
        }
    }
}

fn data() -> Bytes {
    Bytes::from(vec![b'x'; VALUE_BYTES])
}

/// Reads a watch of everything, in a thread of its own, until it is dropped.
fn read_along(kv: &Kv) -> Runtime {
    let reader =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().expect("a runtime");
    let mut watch = reader.block_on(watch(kv));
    let kv = kv.clone();
    reader.spawn(async move {
        loop {
            next_event(&kv, &mut watch).await;
        }
    });
    reader
}

async fn watch(kv: &Kv) -> Watch {
    kv.watch("", 0).await.expect("a watch")
}

async fn next_event(kv: &Kv, watch: &mut Watch) {
    match watch.next().await {
        Some(Ok(event)) => drop(black_box(event)),
        // The writers were faster than the history is long.
        _ => *watch = self::watch(kv).await,
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime")
}

/// The median, the smallest and the largest.
fn spread(numbers: impl Iterator<Item = f64>) -> (f64, f64, f64) {
    let mut numbers: Vec<f64> = numbers.collect();
    numbers.sort_unstable_by(f64::total_cmp);
    (numbers[numbers.len() / 2], numbers[0], numbers[numbers.len() - 1])
}
