//! One caller's calls do not disturb another caller: [clause S2](kv_core::contract::CLAUSES#S2).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use kv_core::{Error, Kv, Value};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::case::cases;
use crate::chaos::{Line, Link};
use crate::context::Context;
use crate::outcome::{Broke, Keeps as _, Outcome, all_end, check, refused, same};

cases! { "isolation":
    a_flood_of_cancelled_calls ["S2"] "Thousands of calls that are dropped as soon as they have begun disturb no other caller's writes."
    calls_cancelled_all_the_time ["S2"] "Eight tasks that drop their calls after a few milliseconds, for ten seconds, disturb no other caller's writes."
    refused_calls_fail_nobody_else ["S2", "W2", "W3"] "Calls that are refused or invalid do not fail others that are made at the same moment."
    large_reads_on_a_slow_line ["S2"] needs [Faults] "Many large reads on a slow line do not make small calls time out."
    large_writes_on_a_slow_line ["S2"] needs [Faults] "Many large writes on a slow line do not make small calls time out."
    many_events_on_a_slow_line ["S2"] needs [Faults] "Watches that fill a slow line do not make small calls time out."
    slow_readers_hold_up_nobody ["S2", "E5"] "Watches that nobody reads hold up no other watch, renewal, lock or write of the same handle."
    abandoned_waits_hold_up_no_lock ["S2", "L4"] "Hundreds of lock waits that are dropped hold up no other lock, and the lock itself passes on."
}

/// How far a call gets before it is dropped.
#[derive(Debug, Clone, Copy)]
enum Until {
    Polled,
    /// Other tasks have run meanwhile, so the call may have been sent.
    Sent,
    /// Its answer may be on its way.
    Answering,
}

/// Begins a call, and drops it.
async fn cancel(call: impl Future + Send, until: Until) {
    let mut call = std::pin::pin!(call);
    if futures_util::poll!(call.as_mut()).is_ready() {
        return;
    }
    match until {
        Until::Polled => {}
        Until::Sent => tokio::task::yield_now().await,
        Until::Answering => {
            let _ = tokio::time::timeout(Duration::from_millis(1), call).await;
        }
    }
}

/// Writes one value after the other until it is stopped. Each write must succeed and be readable.
async fn undisturbed(kv: Kv, over: Arc<AtomicUsize>) -> Outcome<usize> {
    let mut written = 0;
    while over.load(Ordering::Relaxed) > 0 {
        let index = kv.set("undisturbed", written.to_string()).await.keeps("S2")?;
        same!("S2", kv.get("undisturbed").await.keeps("S2")?.index, index, "the index of write {written}");
        written += 1;
        // A store in memory answers at once, so without this no other task would run.
        tokio::task::yield_now().await;
    }
    Ok(written)
}

/// Runs tasks that cancel calls on one handle, beside a writer on the same handle that they must not disturb.
async fn beside_a_writer<F>(cx: &Context, cancelling: impl IntoIterator<Item = F>, kv: Kv) -> Outcome
where
    F: Future<Output = ()> + Send + 'static,
{
    let running = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for task in cancelling {
        running.fetch_add(1, Ordering::Relaxed);
        let running = running.clone();
        tasks.spawn(async move {
            task.await;
            running.fetch_sub(1, Ordering::Relaxed);
            Outcome::Ok(0)
        });
    }
    tasks.spawn(undisturbed(kv.clone(), running));
    let written: usize = all_end(&mut tasks).await?.into_iter().sum();
    // On a store that answers at once, the writer may have finished before the last calls were dropped.
    kv.set("undisturbed", "after all").await.keeps("S2")?;
    cx.note(format_args!("{written} writes were made meanwhile"));
    Ok(())
}

async fn filled(cx: &Context) -> Outcome<Kv> {
    let kv = cx.client().await?.kv().clone();
    let filling = (0..64).map(|number| {
        let kv = &kv;
        async move { kv.set(&format!("data/{number}"), vec![b'x'; 256]).await }
    });
    try_join_all(filling).await?;
    Ok(kv)
}

async fn a_flood_of_cancelled_calls(cx: Context) -> Outcome {
    const TASKS: usize = 12;
    const CALLS: usize = 400;
    let kv = filled(&cx).await?;
    let tasks = (0..TASKS).map(|task| {
        let kv = kv.clone();
        async move {
            for call in 0..CALLS {
                let until = [Until::Polled, Until::Sent, Until::Polled, Until::Answering][call % 4];
                match task % 3 {
                    0 => cancel(kv.keys("data"), until).await,
                    1 => cancel(kv.get("data/1"), until).await,
                    _ => cancel(kv.get_all("data/"), until).await,
                }
                tokio::task::yield_now().await;
            }
        }
    });
    beside_a_writer(&cx, tasks, kv.clone()).await
}

async fn calls_cancelled_all_the_time(cx: Context) -> Outcome {
    const TASKS: u64 = 8;
    const LASTING: Duration = Duration::from_secs(10);
    let kv = filled(&cx).await?;
    let tasks = (0..TASKS).map(|task| {
        let kv = kv.clone();
        async move {
            let began = Instant::now();
            while began.elapsed() < LASTING {
                cancel(kv.keys("data"), Until::Answering).await;
                cancel(kv.get_all("data/"), Until::Sent).await;
                tokio::time::sleep(Duration::from_millis(10 + task)).await;
            }
        }
    });
    beside_a_writer(&cx, tasks, kv.clone()).await
}

async fn refused_calls_fail_nobody_else(cx: Context) -> Outcome {
    const ROUNDS: usize = 5;
    let kv = cx.client().await?.kv().clone();
    let index = kv.set("there", "").await?;
    let lost = kv.lock("passed-on", cx.long_ttl()).await?;
    // Deleting the tree ends the lock in it. Guarded writes are refused from now on.
    kv.delete_tree("passed-on").await?;
    for round in 0..ROUNDS {
        let good = (0..24).map(|number| {
            let kv = &kv;
            async move {
                let key = format!("good/{round}-{number}");
                let set = kv.set(&key, "1").await.keeps("S2")?;
                kv.update(&key, Value::new("2", set)).await.keeps("S2")?;
                kv.get(&key).await.keeps("S2")?;
                Outcome::Ok(())
            }
        });
        let bad = (0..24).map(|number| {
            let (kv, lost) = (&kv, &lost);
            async move {
                match number % 6 {
                    0 => refused!("S2", kv.update("there", Value::new("", index + 1)).await, Error::Conflict { .. }),
                    1 => refused!("S2", kv.remove("there", 0).await, Error::Conflict { .. }),
                    2 => refused!("K1", kv.set("in//valid", "").await, Error::InvalidKey { .. }),
                    3 => refused!("R1", kv.get("absent").await, Error::NotFound { .. }),
                    4 => {
                        let txn = kv.txn().check("absent", index).set("never", "");
                        refused!("S2", txn.commit().await, Error::Conflict { .. });
                    }
                    _ => {
                        let guarded = kv.txn().held(lost).set("never", "").commit().await;
                        check!("L5", guarded.is_ok() || guarded.is_err_and(|error| error.is_lost()), "a guard failed");
                    }
                }
                Outcome::Ok(())
            }
        });
        // The bad calls come first, because on a store that answers at once each call ends before the next begins.
        tokio::try_join!(try_join_all(bad), try_join_all(good))?;
    }
    Ok(())
}

/// Bytes a second of a slow line, in each direction.
const RATE: u32 = 2 << 20;
/// Takes a slow line twice the timeout of the small calls.
const TOGETHER: usize = 20 << 20;

/// Makes small calls while others fill the line; none may fail. Returns how long the slowest took.
async fn small_calls(kv: &Kv) -> Outcome<Duration> {
    const SMALL: usize = 20;
    let mut slowest = Duration::ZERO;
    for number in 0..SMALL {
        let began = Instant::now();
        kv.get("small").await.keeps("S2")?;
        if number % 4 == 0 {
            kv.set("small", number.to_string()).await.keeps("S2")?;
        }
        slowest = slowest.max(began.elapsed());
    }
    Ok(slowest)
}

/// A handle behind a line that is not slow yet.
async fn behind_a_line(cx: &Context) -> Outcome<(Link, Kv)> {
    let link = Link::start(cx.faults()?.endpoints().swap_remove(0))?;
    let kv = cx.faults()?.connect_to(&[link.endpoint().to_owned()]).await?.scoped(cx.directory())?;
    kv.set("small", "1").await?;
    Ok((link, kv))
}

async fn large_writes_on_a_slow_line(cx: Context) -> Outcome {
    let size = 700_000.min(cx.limits().value_bytes / 10 * 9);
    let writers = (TOGETHER / size).clamp(8, 64);
    let (link, kv) = behind_a_line(&cx).await?;
    let patient = kv.clone().with_timeout(Duration::from_secs(120));
    link.set(Line::Narrow(RATE));
    let mut writing = JoinSet::new();
    for number in 0..writers {
        let kv = patient.clone();
        writing.spawn(async move { while kv.set(&format!("large/{number}"), vec![b'x'; size]).await.is_ok() {} });
    }
    // Until the line is full.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let slowest = small_calls(&kv).await?;
    check!("S2", writing.len() == writers && writing.try_join_next().is_none(), "a large write failed");
    link.set(Line::Open);
    writing.shutdown().await;
    cx.note(format_args!("{writers} writers of {size} bytes; small calls took {slowest:?} at most"));
    Ok(())
}

async fn many_events_on_a_slow_line(cx: Context) -> Outcome {
    let size = 200_000.min(cx.limits().value_bytes / 10 * 9);
    let (link, kv) = behind_a_line(&cx).await?;
    let mut watching = JoinSet::new();
    for number in 0..4 {
        let mut watch = kv.watch(&format!("large/{number}/"), 0).await.keeps("S2")?;
        watching.spawn(async move { while let Some(Ok(_)) = watch.next().await {} });
    }
    link.set(Line::Narrow(RATE));
    let other = cx.client().await?.kv().clone();
    let writes = TOGETHER / size;
    for number in 0..writes {
        other.set(&format!("large/{}/{number}", number % 4), vec![b'x'; size]).await?;
    }
    let slowest = small_calls(&kv).await?;
    check!("E4", watching.try_join_next().is_none(), "a watch ended because its line is slow");
    link.set(Line::Open);
    watching.shutdown().await;
    cx.note(format_args!("{writes} events of {size} bytes; small calls took {slowest:?} at most"));
    Ok(())
}

async fn large_reads_on_a_slow_line(cx: Context) -> Outcome {
    let size = 700_000.min(cx.limits().value_bytes / 10 * 9);
    let readers = (TOGETHER / size).clamp(8, 64);
    let (link, kv) = behind_a_line(&cx).await?;
    kv.set("large", vec![b'x'; size]).await?;
    link.set(Line::Narrow(RATE));
    let patient = kv.clone().with_timeout(Duration::from_secs(120));
    let mut reading = JoinSet::new();
    for _ in 0..readers {
        let kv = patient.clone();
        reading.spawn(async move { while kv.get("large").await.is_ok() {} });
    }
    // Until the line is full.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let slowest = small_calls(&kv).await?;
    link.set(Line::Open);
    reading.shutdown().await;
    cx.note(format_args!("{readers} readers of {size} bytes; small calls took {slowest:?} at most"));
    Ok(())
}

async fn slow_readers_hold_up_nobody(cx: Context) -> Outcome {
    const SLOW: usize = 8;
    const WRITES: usize = 100;
    const BYTES: usize = 32 << 10;
    let (kv, other) = (cx.client().await?.kv().clone(), cx.client().await?);
    let client = cx.around(kv.clone());
    let opening = (0..SLOW).map(|_| kv.watch("slow/", 0));
    let slow = try_join_all(opening).await.keeps("S2")?;
    let mut fast = client.watch("fast/", 0).await?;
    let member = kv.ephemeral_key("member", cx.long_ttl()).await?;
    let writing = (0..WRITES).map(|number| {
        let kv = other.kv().clone();
        async move { kv.set(&format!("slow/{}", number % 10), vec![b'x'; BYTES]).await }
    });
    let mut writing = futures_util::stream::iter(writing);
    for round in 0..10 {
        // Ten at a time, so that no store is overloaded.
        let some: Vec<_> = futures_util::StreamExt::collect(futures_util::StreamExt::take(&mut writing, 10)).await;
        try_join_all(some).await.keeps("S2")?;
        let index = other.set("fast/key", round.to_string()).await.keeps("S2")?;
        let event = fast.next("S2").await?;
        same!("S2", event.index, index, "the index of the event of round {round}");
        member.renew().await.keeps("S2")?;
        member.set(round.to_string()).await.keeps("S2")?;
        let granted = tokio::time::timeout(cx.patience(), kv.lock("lock", cx.long_ttl())).await;
        let lock = granted.map_err(|_| Broke::new("S2", "a lock is free, but slow watches hold it up"))?.keeps("S2")?;
        lock.unlock().await.keeps("S2")?;
    }
    let last = other.set("slow/last", "").await?;
    // They still deliver the events that were not read, or report that these are gone.
    for mut watch in slow {
        loop {
            let next = tokio::time::timeout(cx.patience(), watch.next()).await;
            match next.map_err(|_| Broke::new("E5", "a watch that was not read for a while delivers nothing"))? {
                Some(Ok(event)) if event.index < last => {}
                Some(Ok(_) | Err(Error::Compacted { .. })) => break,
                ended => return Err(Broke::new("E4", format!("a slow watch ended: {ended:?}"))),
            }
        }
    }
    Ok(())
}

async fn abandoned_waits_hold_up_no_lock(cx: Context) -> Outcome {
    const WAITS: u64 = 200;
    let (holder, kv) = (cx.client().await?, cx.client().await?.kv().clone());
    let lock = holder.lock("busy", cx.long_ttl()).await?;
    let abandoning = (0..WAITS).map(|number| {
        let (kv, cx) = (&kv, &cx);
        async move {
            let after = Duration::from_millis(number % 50 * 4);
            let waited = tokio::time::timeout(after, kv.lock("busy", cx.long_ttl())).await;
            check!("L4", !matches!(waited, Ok(Ok(_))), "a lock was given to a second holder");
            Outcome::Ok(())
        }
    });
    let others = (0..20).map(|number| {
        let (kv, cx) = (&kv, &cx);
        async move {
            let key = format!("other/{}", number % 5);
            let waiting = tokio::time::timeout(cx.patience(), kv.lock(&key, cx.long_ttl())).await;
            let late = |_| Broke::new("S2", format!("{key:?} was held up by waits for another lock"));
            waiting.map_err(late)?.keeps("S2")?.unlock().await.keeps("S2")
        }
    });
    let (abandoned, others) = tokio::join!(join_all(abandoning), join_all(others));
    abandoned.into_iter().chain(others).collect::<Outcome<Vec<_>>>()?;
    let next = tokio::time::timeout(cx.expiry(), async {
        let (next, freed) = tokio::join!(kv.lock("busy", cx.long_ttl()), lock.unlock());
        freed?;
        next
    });
    let next = next.await.map_err(|_| Broke::new("S2", "abandoned waits keep a lock from the next one"))?;
    next.keeps("S2")?.unlock().await.keeps("L7")
}
