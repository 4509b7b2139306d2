//! One handle in several runtimes, at once or one after the other: [clause S1](kv_core::contract::CLAUSES#S1).
//!
//! Each case first uses a handle in a runtime of its own. Then that runtime ends, or stays alive without a thread that
//! drives it, and the same handle is used in another runtime.
//!
//! Longer than most files: its cases share the helpers that put a handle into two runtimes.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::try_join_all;
use kv_core::{EphemeralKey, Error, EventType, Kv, Lock, Value};
use tokio::sync::oneshot;

use crate::case::cases;
use crate::context::Context;
use crate::outcome::{Broke, Keeps as _, Outcome, check, refused, same};
use crate::runtime::Apart;

cases! { "runtimes":
    calls_after_a_runtime_ended ["S1"] "Calls alone and in bursts succeed after the runtime that connected has ended during other calls."
    calls_beside_an_idle_runtime ["S1"] "Calls alone and in bursts succeed while the runtime that connected is alive but not driven, during other calls."
    watches_after_a_runtime_ended ["S1", "E1"] "Watches opened after the runtime of earlier ones has ended see every event."
    watches_beside_an_idle_runtime ["S1", "E1"] "Watches opened beside an idle runtime with watches on the same keys see every event."
    a_watch_outlives_no_runtime_silently ["S1", "E4"] "A watch whose runtime has ended goes on or ends with an error when it is read elsewhere."
    keys_after_a_runtime_ended ["S1", "L1", "L2"] "An ephemeral key of a runtime that has ended is renewed, written, lapses, and is given back in another."
    keys_beside_an_idle_runtime ["S1", "L1", "L2"] "An ephemeral key of an idle runtime is renewed, written, lapses, and is given back in another."
    locks_after_a_runtime_ended ["S1", "L4", "L7"] "A lock of a runtime that has ended passes on to waiters in other runtimes, by unlock and by its time to live."
    locks_beside_an_idle_runtime ["S1", "L4", "L7"] "A lock of an idle runtime passes on to waiters in other runtimes, by unlock and by its time to live."
    a_waiter_that_is_not_driven ["S1", "L4"] "A waiter whose runtime has ended or is idle does not keep a lock from the waiters behind it."
    one_handle_for_many_tests ["S1"] "Sixteen runtimes one after the other, and eight at once, use one handle, and no call fails."
    no_runtime_at_all ["S1", "L1", "L4"] "A lease that is requested outside a runtime is granted and lapses, or is refused and takes nothing."
}

/// The state of the runtime in which a handle was used first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum First {
    Ended,
    /// Alive, but no thread drives it.
    Idle,
}

/// A handle that was connected and used in a runtime of its own. The runtime is kept if it is to be idle.
///
/// The runtime stopped during many calls, and their requests and permits stopped with it.
async fn used_before(cx: &Context, first: First) -> Outcome<(Kv, Option<Apart>)> {
    const TASKS: usize = 32;
    let apart = Apart::new(cx.patience() * 2)?;
    let within = cx.clone();
    let kv = apart.run(async move {
        let kv = within.client().await?.kv().clone();
        burst(&kv, "before").await?;
        for task in 0..TASKS {
            let kv = kv.clone();
            tokio::spawn(async move {
                // Their results do not matter, because the runtime may end at any moment.
                while kv.set(&format!("left/{task}"), "").await.is_ok() {
                    let _ = kv.get(&format!("left/{task}")).await;
                    // A store in memory answers at once, so without this no other task would run.
                    tokio::task::yield_now().await;
                }
            });
        }
        // Long enough for requests to be in flight, whose answers will not be read.
        tokio::time::sleep(Duration::from_millis(50)).await;
        Outcome::Ok(kv)
    });
    let kv = kv.await??;
    cx.note(format_args!("a handle was used in a runtime that is {first:?} now"));
    match first {
        First::Idle => Ok((kv, Some(apart))),
        First::Ended => apart.end().await.map(|()| (kv, None)),
    }
}

/// Makes calls of every kind at the same time, so that a driver that batches them does so. None may fail.
async fn burst(kv: &Kv, tag: &str) -> Outcome {
    let calls = (0..48).map(|number| async move {
        let key = format!("{tag}/{number}");
        let created = kv.update(&key, Value::new("1", 0)).await.keeps("S1")?;
        let set = kv.set(&key, "2").await.keeps("S1")?;
        same!("S1", kv.get(&key).await.keeps("S1")?.index, set, "the index of {key:?}, created at {created}");
        let beside = format!("{tag}/beside-{number}");
        let txn = kv.txn().check(&key, set).set(&beside, "").delete(&key);
        txn.commit().await.keeps("S1")?;
        kv.delete(&beside).await.keeps("S1")
    });
    try_join_all(calls).await?;
    same!("S1", kv.keys(tag).await.keeps("S1")?.len(), 0, "how many keys are left of the burst {tag:?}");
    kv.get_all("").await.keeps("S1")?;
    kv.ping().await.keeps("S1")
}

async fn calls(cx: Context, first: First) -> Outcome {
    let (kv, apart) = used_before(&cx, first).await?;
    for key in ["alone/1", "alone/2"] {
        let index = kv.set(key, "").await.keeps("S1")?;
        same!("S1", kv.get(key).await.keeps("S1")?.index, index, "the index of {key:?}");
    }
    burst(&kv, "here").await?;
    let (third, elsewhere) = (Apart::new(cx.patience() * 2)?, kv.clone());
    third.run(async move { burst(&elsewhere, "third").await }).await??;
    // The idle runtime is driven again, with a handle that others have used meanwhile.
    if let Some(apart) = &apart {
        let again = kv.clone();
        apart.run(async move { burst(&again, "again").await }).await??;
    }
    Ok(())
}

async fn calls_after_a_runtime_ended(cx: Context) -> Outcome {
    calls(cx, First::Ended).await
}

async fn calls_beside_an_idle_runtime(cx: Context) -> Outcome {
    calls(cx, First::Idle).await
}

async fn watches(cx: Context, first: First) -> Outcome {
    let writer = cx.client().await?;
    let apart = Apart::new(cx.patience() * 2)?;
    let within = cx.clone();
    // The earlier watches stay open on the same keys, so that later ones may share what serves them.
    let opening = apart.run(async move {
        let kv = within.client().await?.kv().clone();
        kv.set("watched/a", "0").await?;
        let mut watch = kv.watch("watched/", 0).await?;
        let observed = kv.observe("watched/").await?;
        kv.set("watched/a", "1").await?;
        watch.next().await.transpose()?;
        Outcome::Ok((kv, watch, observed))
    });
    let (kv, _watch, _observed) = opening.await??;
    let kept = match first {
        First::Idle => Some(apart),
        First::Ended => apart.end().await.map(|()| None)?,
    };
    let client = cx.around(kv);
    let mut events = client.watch("watched/", 0).await.keeps("S1")?;
    let (listing, mut observed) = client.observe("watched/").await.keeps("S1")?;
    check!("S1", listing.values.contains_key("watched/a"), "the listing lacks a key: {listing:?}");
    for number in 0..5 {
        let data = number.to_string();
        let index = writer.set("watched/b", data.clone()).await?;
        let event_type = if number == 0 { EventType::Create } else { EventType::Update };
        for events in [&mut events, &mut observed] {
            let event = events.next("S1").await?;
            same!("E2", (event.event_type, event.index), (event_type, index), "the event of write {number}");
        }
    }
    drop(kept);
    Ok(())
}

async fn watches_after_a_runtime_ended(cx: Context) -> Outcome {
    watches(cx, First::Ended).await
}

async fn watches_beside_an_idle_runtime(cx: Context) -> Outcome {
    watches(cx, First::Idle).await
}

async fn a_watch_outlives_no_runtime_silently(cx: Context) -> Outcome {
    let writer = cx.client().await?;
    let apart = Apart::new(cx.patience() * 2)?;
    let within = cx.clone();
    let opening = apart.run(async move {
        let kv = within.client().await?.kv().clone();
        let watch = kv.watch("watched/", 0).await?;
        let (_listing, observed) = kv.observe("watched/").await?;
        Outcome::Ok((kv, watch, observed))
    });
    let (kv, watch, observed) = opening.await??;
    apart.end().await?;
    let index = writer.set("watched/a", "1").await?;
    for mut watch in [watch, observed] {
        let next = tokio::time::timeout(cx.patience(), watch.next()).await;
        match next.map_err(|_| Broke::new("S1", "a watch whose runtime has ended neither goes on nor ends"))? {
            Some(Ok(event)) => same!("E2", event.index, index, "the index of the event"),
            Some(Err(error)) => {
                cx.note(format_args!("the watch ended: {error}"));
                let last = tokio::time::timeout(cx.patience(), watch.next()).await;
                check!("E4", matches!(last, Ok(None)), "after its error a watch gave {last:?}");
            }
            None => return Err(Broke::new("S1", "a watch whose runtime has ended ends without an error")),
        }
    }
    // The handle itself still works.
    let mut reopened = cx.around(kv).watch("watched/", index).await.keeps("S1")?;
    let index = writer.set("watched/a", "2").await?;
    reopened.expect(EventType::Update, "watched/a", "2", index).await
}

/// Takes an ephemeral key of this name within a runtime.
async fn take_key(apart: &Apart, kv: &Kv, key: &str, ttl: Duration) -> Outcome<EphemeralKey> {
    let (kv, key) = (kv.clone(), key.to_owned());
    apart.run(async move { kv.ephemeral_key(&key, ttl).await }).await?.keeps("S1")
}

async fn keys(cx: Context, first: First) -> Outcome {
    let other = cx.client().await?;
    let apart = Apart::new(cx.patience() * 2)?;
    let within = cx.clone();
    let kv = apart.run(async move { Outcome::Ok(within.client().await?.kv().clone()) }).await??;
    // Long enough for a busy machine.
    let ttl = cx.ttl().max(Duration::from_secs(8));
    let kept = take_key(&apart, &kv, "kept", ttl).await?;
    let dropped = take_key(&apart, &kv, "dropped", cx.long_ttl()).await?;
    let silent = take_key(&apart, &kv, "silent", cx.ttl()).await?;
    let thread = take_key(&apart, &kv, "thread", cx.ttl()).await?;
    let idle = match first {
        First::Idle => Some(apart),
        First::Ended => apart.end().await.map(|()| None)?,
    };
    kept.set("here").await.keeps("S1")?;
    // Without a runtime the key cannot be given back. The drop must not panic, and the time to live ends the key.
    let outside = std::thread::spawn(move || drop(thread)).join();
    check!("S1", outside.is_ok(), "a key that was dropped outside a runtime panicked");
    drop(dropped);
    gone(&cx, other.kv(), "dropped").await?;
    // Renewed for longer than the time to live, and only in this runtime.
    let holding = kept.hold(async {
        gone(&cx, other.kv(), "silent").await?;
        gone(&cx, other.kv(), "thread").await?;
        tokio::time::sleep(cx.beyond(ttl)).await;
        Outcome::Ok(())
    });
    holding.await.keeps("S1")??;
    same!("S1", other.get("kept").await.keeps("L1")?.data, "here", "the key that is renewed here");
    kept.destroy().await.keeps("S1")?;
    gone(&cx, other.kv(), "kept").await?;
    drop((silent, idle));
    Ok(())
}

/// Waits until a key is gone.
async fn gone(cx: &Context, kv: &Kv, key: &str) -> Outcome {
    let absent = || async {
        match kv.get(key).await {
            Ok(_) => Ok(None),
            Err(Error::NotFound { .. }) => Ok(Some(())),
            Err(error) => Err(error.into()),
        }
    };
    cx.until("S1", &format!("{key:?} is gone"), absent).await
}

async fn keys_after_a_runtime_ended(cx: Context) -> Outcome {
    keys(cx, First::Ended).await
}

async fn keys_beside_an_idle_runtime(cx: Context) -> Outcome {
    keys(cx, First::Idle).await
}

/// Waits for a lock in this runtime. [S1](kv_core::contract::CLAUSES#S1) is broken if the wait does not end.
async fn granted(cx: &Context, kv: &Kv, key: &str, ttl: Duration) -> Outcome<Lock> {
    let waiting = tokio::time::timeout(cx.expiry() * 2, kv.lock(key, ttl)).await;
    waiting.map_err(|_| Broke::new("S1", format!("lock {key:?} is free, but its waiter does not get it")))?.keeps("S1")
}

async fn locks(cx: Context, first: First) -> Outcome {
    let apart = Apart::new(cx.expiry() * 3)?;
    let within = cx.clone();
    let (ttl, long) = (cx.ttl(), cx.long_ttl());
    let taking = apart.run(async move {
        let kv = within.client().await?.kv().clone();
        let held = kv.lock("held", long).await?;
        let silent = kv.lock("silent", ttl).await?;
        let dropped = kv.lock("dropped", long).await?;
        Outcome::Ok((kv, held, silent, dropped))
    });
    let (kv, held, silent, dropped) = taking.await??;
    let idle = match first {
        First::Idle => Some(apart),
        First::Ended => apart.end().await.map(|()| None)?,
    };
    // Two waiters wait for each lock: one in this runtime, one in a third runtime.
    let third = Apart::new(cx.expiry() * 4)?;
    let (there, within) = (kv.clone(), cx.clone());
    let elsewhere = third.run(async move {
        for key in ["held", "silent", "dropped"] {
            granted(&within, &there, key, long).await?.unlock().await.keeps("S1")?;
        }
        Outcome::Ok(())
    });
    let here = async {
        for key in ["held", "silent", "dropped"] {
            granted(&cx, &kv, key, long).await?.unlock().await.keeps("S1")?;
        }
        Outcome::Ok(())
    };
    let freeing = async {
        held.renew().await.keeps("S1")?;
        held.unlock().await.keeps("S1")?;
        drop(dropped);
        Outcome::Ok(())
    };
    let (elsewhere, _here, _freed) = tokio::try_join!(elsewhere, here, freeing)?;
    elsewhere?;
    drop((silent, idle));
    Ok(())
}

async fn locks_after_a_runtime_ended(cx: Context) -> Outcome {
    locks(cx, First::Ended).await
}

async fn locks_beside_an_idle_runtime(cx: Context) -> Outcome {
    locks(cx, First::Idle).await
}

async fn a_waiter_that_is_not_driven(cx: Context) -> Outcome {
    let holder = cx.client().await?;
    let lock = holder.lock("lock", cx.long_ttl()).await?;
    let kv = cx.client().await?.kv().clone();
    let runtimes = [Apart::new(cx.patience() * 2)?, Apart::new(cx.patience() * 2)?];
    for apart in &runtimes {
        let (kv, ttl) = (kv.clone(), cx.ttl());
        let waiting = apart.run(async move {
            let waiting = tokio::spawn(async move { kv.lock("lock", ttl).await });
            // Long enough for the waiter to join the queue.
            tokio::time::sleep(Duration::from_millis(300)).await;
            !waiting.is_finished()
        });
        check!("L4", waiting.await?, "the lock was given to a second holder");
    }
    let [ended, idle] = runtimes;
    ended.end().await?;
    let (behind, within) = (kv.clone(), cx.clone());
    let ttl = cx.long_ttl();
    let waiting = tokio::spawn(async move { granted(&within, &behind, "lock", ttl).await });
    holder.call("unlock", lock.unlock()).await.keeps("L7")?;
    let next = waiting.await.map_err(|panic| Broke::new("S1", panic.to_string()))??;
    next.unlock().await.keeps("L7")?;
    drop(idle);
    Ok(())
}

/// Does what the test of a service does with the handle that all tests share.
async fn one_test(cx: Context, kv: Kv, number: usize) -> Outcome {
    let directory = format!("test-{number}");
    let kv = kv.scoped(&directory)?;
    let mut watch = kv.watch("", 0).await.keeps("S1")?;
    let index = kv.set("first", "").await.keeps("S1")?;
    let event = tokio::time::timeout(cx.patience(), watch.next()).await;
    let event = event.map_err(|_| Broke::new("S1", format!("{directory}: no event within {:?}", cx.patience())))?;
    check!("S1", matches!(&event, Some(Ok(event)) if event.index == index), "{directory}: the watch gave {event:?}");
    burst(&kv, "burst").await?;
    let lock = kv.lock("lock", cx.long_ttl()).await.keeps("S1")?;
    kv.txn().held(&lock).set("guarded", "").commit().await.keeps("S1")?;
    lock.renew().await.keeps("S1")?;
    lock.unlock().await.keeps("S1")?;
    let member = kv.ephemeral_key("member", cx.long_ttl()).await.keeps("S1")?;
    member.set("here").await.keeps("S1")?;
    member.destroy().await.keeps("S1")
}

async fn one_handle_for_many_tests(cx: Context) -> Outcome {
    const TESTS: usize = 16;
    const AT_ONCE: usize = 8;
    let mut shared: Option<Kv> = None;
    for number in 0..TESTS {
        let apart = Apart::new(cx.expiry() * 2)?;
        let (within, kv) = (cx.clone(), shared.clone());
        let testing = apart.run(async move {
            let kv = match kv {
                Some(kv) => kv,
                None => within.client().await?.kv().clone(),
            };
            one_test(within, kv.clone(), number).await?;
            Outcome::Ok(kv)
        });
        shared = Some(testing.await??);
        apart.end().await?;
    }
    let Some(kv) = shared else { return Ok(()) };
    let at_once = (TESTS..TESTS + AT_ONCE).map(|number| {
        let (cx, kv) = (cx.clone(), kv.clone());
        async move {
            let apart = Apart::new(cx.expiry() * 2)?;
            apart.run(one_test(cx, kv, number)).await??;
            apart.end().await
        }
    });
    try_join_all(at_once).await.map(drop)
}

/// Takes a lease in a thread without any runtime; `None` if that panicked or did not end at once.
async fn take_outside<T: Send + 'static>(
    call: impl Future<Output = kv_core::Result<T>> + Send + 'static,
) -> Outcome<Option<kv_core::Result<T>>> {
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || {
        let polled = std::panic::catch_unwind(AssertUnwindSafe(|| call.now_or_never()));
        let _ = sender.send(polled.ok().flatten());
    });
    receiver.await.map_err(|_| Broke::new("S1", "a thread without a runtime ended"))
}

async fn no_runtime_at_all(cx: Context) -> Outcome {
    let other = cx.client().await?;
    let (kv, ttl) = (cx.client().await?.kv().clone(), cx.ttl());
    let taking = kv.clone();
    let key = take_outside(async move { taking.ephemeral_key("key", ttl).await }).await?;
    let lock = take_outside(async move { kv.lock("lock", ttl).await }).await?;
    cx.note(format_args!("outside a runtime, the result for a key was {key:?}, and for a lock {lock:?}"));
    if !matches!(key, Some(Ok(_))) {
        refused!("S1", other.get("key").await, Error::NotFound { .. });
    }
    if !matches!(lock, Some(Ok(_))) {
        let free = other.try_lock("lock", cx.long_ttl()).await?;
        check!("S1", free.is_some(), "a lock is taken, although no caller was given it");
        drop(free);
    }
    gone(&cx, other.kv(), "key").await?;
    let next = granted(&cx, other.kv(), "lock", cx.long_ttl()).await?;
    next.unlock().await.keeps("L7")
}
