//! Load: many concurrent clients, repeated for a long time, are all served and leave nothing behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::future::try_join_all;
use kv_core::{Error, EventType, Kv, Value};
use tokio::task::JoinSet;

use crate::case::cases;
use crate::context::Context;
use crate::fixture::Census;
use crate::outcome::{Broke, Keeps as _, Outcome, all_end, check, same};
use crate::random::Random;
use crate::runtime::Apart;

cases! { "load":
    many_at_a_time ["A6", "E1", "L4", "L5", "W2"] needs [Faults] "A thousand tasks, a thousand watches and 500 waiters for one lock are served concurrently and leave nothing behind."
    clients_come_and_go ["A6", "L7", "E4"] needs [Faults] "Clients that connect, watch, lock, and are dropped leave no task, connection, lease or key behind."
    runtimes_come_and_go ["S1", "L7"] needs [Faults] "Two hundred runtimes use one handle, one after the other: no call fails, and nothing is left of them."
    a_soak_leaves_memory_flat ["E5", "L7"] needs [Faults] "Memory does not grow under a long mixture of calls."
}

/// The resources that this process and the store hold.
#[derive(Debug, Clone, Copy)]
struct Held {
    tasks: usize,
    files: usize,
    store: Census,
}

impl Held {
    async fn now(cx: &Context) -> Outcome<Self> {
        let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        let files = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        let store = cx.faults()?.census().await;
        let store =
            store.map_err(|error| Broke { clause: None, what: format!("the store cannot be counted: {error}") })?;
        Ok(Self { tasks, files, store })
    }

    fn is_within(&self, before: &Self) -> bool {
        // The count itself sometimes opens a connection.
        const SLACK: usize = 2;
        self.tasks <= before.tasks
            && self.files <= before.files + SLACK
            && self.store.connections <= before.store.connections + SLACK
            && self.store.leases <= before.store.leases
            && self.store.keys <= before.store.keys
    }
}

/// Waits until the clients hold no more than before.
async fn nothing_is_left(cx: &Context, before: &Held) -> Outcome {
    let began = Instant::now();
    // A server continues abandoned queries for a while.
    let limit = cx.expiry() * 3;
    loop {
        let now = Held::now(cx).await?;
        if now.is_within(before) {
            cx.note(format!("left: {now:?}, and before: {before:?}"));
            return Ok(());
        }
        check!(
            "L7",
            began.elapsed() < limit,
            "{limit:?} after the end there is {now:?}, and before the start there was {before:?}"
        );
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// A client without a log, for a very large number of calls.
async fn connect(cx: &Context) -> Outcome<Kv> {
    Ok(cx.fixture().connect().await?.scoped(cx.directory())?)
}

async fn many_at_a_time(cx: Context) -> Outcome {
    const TASKS: usize = 1000;
    const WAITERS: usize = 500;
    let before = Held::now(&cx).await?;
    let kv = connect(&cx).await?;
    let watches = (0..TASKS).map(|number| {
        let kv = kv.clone();
        async move { kv.watch(&format!("task/{number:04}/"), 0).await }
    });
    let watches: Vec<_> = futures_util::stream::iter(watches).buffered(64).collect::<Vec<_>>().await;
    let watches: Vec<_> = watches.into_iter().collect::<kv_core::Result<_>>().keeps("E1")?;
    cx.note("the watches are open");

    let mut tasks = JoinSet::new();
    for (number, mut watch) in watches.into_iter().enumerate() {
        let (kv, patience) = (kv.clone(), cx.expiry() * 2);
        tasks.spawn(async move {
            let key = format!("task/{number:04}/key");
            let set = steadily(|| kv.set(&key, "1")).await.keeps("A6")?;
            let updated = kv.update(&key, Value::new("2", set)).await.keeps("W2")?;
            let last = steadily(|| kv.get(&key)).await.keeps("A6")?;
            same!("W2", last.index, updated, "the index of {key}");
            loop {
                let event = tokio::time::timeout(patience, watch.next()).await;
                match event.map_err(|_| Broke::new("E1", format!("no event of {key} within {patience:?}")))? {
                    Some(Ok(event)) if event.index == updated && event.event_type != EventType::Delete => break,
                    Some(Ok(_)) => {}
                    ended => return Err(Broke::new("E4", format!("the watch of {key} ended: {ended:?}"))),
                }
            }
            Outcome::Ok(())
        });
    }
    let clients = try_join_all((0..5).map(|_| connect(&cx))).await?;
    let newest = Arc::new(AtomicUsize::new(0));
    for number in 0..WAITERS {
        let (kv, newest, ttl) = (clients[number % clients.len()].clone(), newest.clone(), cx.long_ttl());
        tasks.spawn(async move {
            let lock = kv.lock("lock", ttl).await.keeps("L4")?;
            let token = usize::try_from(lock.token()).unwrap_or(usize::MAX);
            let last = newest.swap(token, Ordering::SeqCst);
            check!("L5", token > last, "the token went from {last} to {token}");
            lock.unlock().await.keeps("L7")
        });
    }
    all_end(&mut tasks).await?;
    cx.note("all clients were served");
    steadily(|| kv.delete_tree("")).await?;
    drop((kv, clients));
    nothing_is_left(&cx, &before).await
}

/// Makes a call, and repeats it if it was certainly not sent in time: on a slow machine, so many concurrent calls may
/// take longer than the timeout of one.
async fn steadily<T, F: Future<Output = kv_core::Result<T>>>(call: impl Fn() -> F) -> kv_core::Result<T> {
    loop {
        match call().await {
            Err(error) if error.is_retryable() || matches!(error, Error::Indeterminate { .. }) => {}
            result => return result,
        }
    }
}

async fn clients_come_and_go(cx: Context) -> Outcome {
    let clients = 2000 * cx.effort() as usize;
    let before = Held::now(&cx).await?;
    let coming = (0..clients).map(|number| {
        let cx = &cx;
        async move {
            let kv = connect(cx).await?;
            // Most only connect; some are dropped while they hold a watch, a lock or a key.
            match number % 50 {
                0 => drop(kv.watch("", 0).await?),
                1 => drop(kv.try_lock(&format!("lock/{number}"), cx.long_ttl()).await?),
                2 => drop(kv.ephemeral_key(&format!("member/{number}"), cx.long_ttl()).await?),
                _ => {}
            }
            Outcome::Ok(())
        }
    });
    let mut coming = futures_util::stream::iter(coming).buffer_unordered(16);
    while let Some(came) = coming.next().await {
        came?;
    }
    drop(coming);
    cx.note("all clients have come and gone");
    nothing_is_left(&cx, &before).await?;
    cx.summarize(format!("{clients} clients have come and gone"));
    Ok(())
}

async fn runtimes_come_and_go(cx: Context) -> Outcome {
    const RUNTIMES: usize = 200;
    const TOGETHER: usize = 12;
    let kv = connect(&cx).await?;
    kv.set("before", "").await?;
    let before = Held::now(&cx).await?;
    for number in 0..RUNTIMES {
        let (apart, kv) = (Apart::new(cx.patience() * 2)?, kv.clone());
        let using = apart.run(async move {
            let mut watch = kv.watch(&format!("{number}/"), 0).await.keeps("S1")?;
            let writing = (0..TOGETHER).map(|one| {
                let (kv, key) = (&kv, format!("{number}/{one}"));
                async move {
                    let index = kv.set(&key, "").await?;
                    Ok((index, kv.get(&key).await?.index))
                }
            });
            for (written, read) in try_join_all(writing).await.keeps("S1")? {
                same!("S1", read, written, "the index that runtime {number} reads");
            }
            let event = watch.next().await.transpose().keeps("S1")?;
            check!("S1", event.is_some(), "the watch of runtime {number} ended");
            kv.delete_tree(&number.to_string()).await.keeps("S1")
        });
        using.await??;
        apart.end().await?;
    }
    nothing_is_left(&cx, &before).await
}

/// The resident memory of this process in KiB, where the system reports it.
fn resident() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix(" kB")?.parse().ok()
}

async fn a_soak_leaves_memory_flat(cx: Context) -> Outcome {
    const TASKS: usize = 32;
    /// The growth that is tolerated: a multiple of the noise, and a fraction of what a leak of a hundred bytes a call
    /// would add.
    const NOISE: usize = 8 << 10;
    let before = Held::now(&cx).await?;
    let warming_up = Duration::from_secs(5);
    let soaking = Duration::from_secs(10) * cx.effort();
    let (calls, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let kv = connect(&cx).await?;
    let mut tasks = JoinSet::new();
    for number in 0..TASKS {
        let (kv, calls, over) = (kv.clone(), calls.clone(), over.clone());
        let (mut random, ttl) = (Random::new(cx.seed(), number as u64), cx.long_ttl());
        tasks.spawn(async move {
            while !over.load(Ordering::Relaxed) {
                one_call(&kv, number, &mut random, ttl).await?;
                calls.fetch_add(1, Ordering::Relaxed);
            }
            Outcome::Ok(())
        });
    }
    for time in [warming_up, soaking] {
        let (calls_before, memory_before) = (calls.load(Ordering::Relaxed), resident());
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            // A task only ends by failing.
            ended = all_end(&mut tasks) => return ended.map(drop),
        }
        let (made, memory) = (calls.load(Ordering::Relaxed) - calls_before, resident());
        cx.note(format!("{made} calls in {time:?}; memory went from {memory_before:?} to {memory:?} KiB"));
        if let (true, Some(before), Some(now)) = (time == soaking, memory_before, memory) {
            let grown = now.saturating_sub(before);
            cx.summarize(format!("{made} calls in {time:?}, and {grown} KiB more memory than the {before} before"));
            check!("E5", grown < NOISE + before / 5, "memory grew by {grown} KiB from {before} in {made} calls");
        }
    }
    over.store(true, Ordering::Relaxed);
    all_end(&mut tasks).await?;
    steadily(|| kv.delete_tree("")).await?;
    drop(kv);
    nothing_is_left(&cx, &before).await
}

/// Makes one call of a random kind, on the keys of one task.
async fn one_call(kv: &Kv, number: usize, random: &mut Random, ttl: Duration) -> Outcome {
    let key = format!("soak/{number}/{}", random.below(4));
    let result = match random.below(40) {
        0 => match kv.watch(&key, 0).await {
            Ok(mut watch) => {
                kv.set(&key, "watched").await?;
                watch.next().await.transpose().map(drop)
            }
            Err(error) => Err(error),
        },
        1 => match kv.try_lock(&format!("lock/{}", number % 8), ttl).await {
            Ok(Some(lock)) => lock.unlock().await,
            result => result.map(drop),
        },
        2 => match kv.ephemeral_key(&format!("member/{number}"), ttl).await {
            Ok(member) => member.destroy().await,
            Err(error) => Err(error),
        },
        3 => kv.get_all(&format!("soak/{number}/")).await.map(drop),
        4..=7 => kv.delete(&key).await,
        8..=11 => kv.update(&key, Value::new("created", 0)).await.map(drop),
        12..=19 => kv.set(&key, vec![0; 1024]).await.map(drop),
        _ => kv.get(&key).await.map(drop),
    };
    match result {
        Ok(()) | Err(Error::NotFound { .. } | Error::Conflict { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
