//! What is measured, and how.

use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use kv_core::{Error, Kv, Lock, Result, Watch};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;

const VALUE: &[u8] = &[b'v'; 100];
/// How many calls are in flight at a time while a measurement is prepared.
const AT_ONCE: usize = 64;
/// How many calls are timed together where a single one may be shorter than the resolution of the clock.
const CALLS: u32 = 64;
/// How long a watch may take to deliver a write before the measurement is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// An operation, and what its cost may grow with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    /// Read one key of many.
    Get,
    /// Write one key of many.
    Set,
    /// Read all keys.
    GetAll,
    /// Write a key, until every watch on it has the event.
    Watched,
    /// Write a key, while watches are open on others.
    Elsewhere,
    /// Free a lock, until the next waiter has it.
    HandOver,
}

impl Subject {
    pub(super) const ALL: &[Self] =
        &[Self::Get, Self::Set, Self::GetAll, Self::Watched, Self::Elsewhere, Self::HandOver];

    pub(super) fn operation(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Set => "set",
            Self::GetAll => "get_all",
            Self::Watched => "set until every watch of the key has its event",
            Self::Elsewhere => "set under watches of other keys",
            Self::HandOver => "unlock until the next waiter has the lock",
        }
    }

    /// The unit of the size.
    pub(super) fn unit(self) -> &'static str {
        match self {
            Self::Get | Self::Set | Self::GetAll => "keys",
            Self::Watched | Self::Elsewhere => "watches",
            Self::HandOver => "waiters",
        }
    }

    pub(super) fn sizes(self) -> &'static [u32] {
        match self {
            Self::Get | Self::Set | Self::GetAll => &[1_000, 10_000, 100_000],
            Self::Watched | Self::Elsewhere => &[1, 100, 10_000],
            Self::HandOver => &[1, 10, 100, 1_000],
        }
    }

    /// The median time of one operation, in the directory that `kv` is scoped to.
    pub(super) async fn measure(self, kv: &Kv, size: u32, duration: Duration) -> Result<Duration> {
        let size = size as usize;
        match self {
            Self::Get | Self::Set => {
                fill(kv, size).await?;
                let mut picked = 0;
                let time = repeat(duration, async || {
                    let began = Instant::now();
                    for _ in 0..CALLS {
                        // Steps that are coprime to the sizes reach every key in a scattered order.
                        picked = (picked + 61_813) % size;
                        if self == Self::Get {
                            kv.get(&key(picked)).await?;
                        } else {
                            kv.set(&key(picked), VALUE).await?;
                        }
                    }
                    Ok(began.elapsed())
                });
                Ok(time.await? / CALLS)
            }
            Self::GetAll => {
                fill(kv, size).await?;
                repeat(duration, async || {
                    let began = Instant::now();
                    let listing = kv.get_all("").await?;
                    let time = began.elapsed();
                    let complete = listing.values.len() == size;
                    complete.then_some(time).ok_or_else(|| Error::unexpected_answer("keys are missing"))
                })
                .await
            }
            Self::Watched => {
                let mut watches = watch(kv, size, |_| "watched".to_owned()).await?;
                repeat(duration, async || {
                    let began = Instant::now();
                    kv.set("watched", VALUE).await?;
                    for watch in &mut watches {
                        let event = tokio::time::timeout(PATIENCE, watch.next()).await;
                        event.ok().flatten().ok_or_else(|| Error::unexpected_answer("an event is missing"))??;
                    }
                    Ok(began.elapsed())
                })
                .await
            }
            Self::Elsewhere => {
                let _watches = watch(kv, size, |number| format!("elsewhere/{number}/")).await?;
                let time = repeat(duration, async || {
                    let began = Instant::now();
                    for _ in 0..CALLS {
                        kv.set("written", VALUE).await?;
                    }
                    Ok(began.elapsed())
                });
                Ok(time.await? / CALLS)
            }
            Self::HandOver => repeat_all(duration, async || hand_over(kv, size).await).await,
        }
    }
}

fn key(number: usize) -> String {
    format!("keys/{number:06}")
}

async fn fill(kv: &Kv, size: usize) -> Result<()> {
    let numbers: Vec<usize> = (0..size).collect();
    let commits = numbers
        .chunks(kv.limits().txn_ops.min(64))
        .map(|numbers| numbers.iter().fold(kv.txn(), |txn, number| txn.set(&key(*number), VALUE)).commit());
    stream::iter(commits).buffer_unordered(8).try_for_each(async |_| Ok(())).await
}

async fn watch(kv: &Kv, number: usize, prefix: fn(usize) -> String) -> Result<Vec<Watch>> {
    let opening = (0..number).map(|number| async move { kv.watch(&prefix(number), 0).await });
    stream::iter(opening).buffer_unordered(AT_ONCE).try_collect().await
}

/// Hands a lock over between up to ten of its waiters, and returns how long each hand-over took.
async fn hand_over(kv: &Kv, waiters: usize) -> Result<Vec<Duration>> {
    let mut lock = take(kv).await?;
    let (granted, mut holders) = unbounded_channel();
    let mut waiting = JoinSet::new();
    for _ in 0..waiters {
        waiting.spawn(wait(kv.clone(), granted.clone()));
    }
    // No store shows that a waiter has begun to wait.
    tokio::time::sleep(Duration::from_millis(200 + 3 * waiters as u64)).await;
    let mut times = Vec::new();
    for _ in 0..waiters.min(10) {
        let began = Instant::now();
        lock.unlock().await?;
        let next = tokio::time::timeout(PATIENCE, holders.recv()).await.ok().flatten();
        lock = next.ok_or_else(|| Error::unexpected_answer("the lock was not passed on"))??;
        times.push(began.elapsed());
    }
    waiting.shutdown().await;
    lock.unlock().await?;
    Ok(times)
}

async fn take(kv: &Kv) -> Result<Lock> {
    kv.lock("lock", Duration::from_secs(60)).await
}

async fn wait(kv: Kv, granted: UnboundedSender<Result<Lock>>) {
    // The receiver is gone after its last hand-over. Then the lock is dropped, and free.
    let _ = granted.send(take(&kv).await);
}

/// Repeats a measurement for a while, at least five times, and returns the median of the times.
async fn repeat(duration: Duration, mut sample: impl AsyncFnMut() -> Result<Duration>) -> Result<Duration> {
    repeat_all(duration, async || Ok(vec![sample().await?])).await
}

/// Does the same for a measurement that returns several times.
async fn repeat_all(duration: Duration, mut sample: impl AsyncFnMut() -> Result<Vec<Duration>>) -> Result<Duration> {
    let began = Instant::now();
    // The first repetition does not count, because nothing is warm yet.
    sample().await?;
    let mut times = Vec::new();
    while times.len() < 5 || began.elapsed() < duration {
        times.extend(sample().await?);
    }
    times.sort_unstable();
    Ok(times[times.len() / 2])
}
