//! What a closed handle gives back: [clause L12](kv_core::contract::CLAUSES#L12).

use std::time::{Duration, Instant};

use kv_core::{EphemeralKey, Error, Lock};

use crate::case::cases;
use crate::client::Client;
use crate::context::Context;
use crate::outcome::{Broke, Keeps as _, Outcome, check, refused};

cases! { "close":
    all_is_free_at_once ["L12"] "What a handle, its clones and its scoped handles hold is free for others as soon as closing has returned."
    dropped_handles_are_waited_for ["L12", "L7"] "Closing waits until what dropped handles held is free."
    a_wait_ends_and_leaves_no_place ["L12", "L4"] "A wait for a lock through a handle that is closed ends with an error, and leaves no place in the queue."
    abandoned_waits_are_waited_for ["L12", "L4"] "Closing waits until the place of a wait that was given up is free."
    nothing_more_is_taken ["L12"] "A closed handle takes no more locks and ephemeral keys, and has lost those it had; reads and writes still work."
    twice ["L12"] "A handle can be closed twice, at the same time, and when it never held anything."
    an_end_in_time ["L12", "A6"] needs [Faults] "Closing while nobody serves ends in time and names what is left; once the store serves, closing again gives it back."
}

/// How many locks and how many ephemeral keys are held.
const HANDLES: usize = 5;

fn names(kind: &str) -> impl Iterator<Item = String> {
    (0..HANDLES).map(move |number| format!("{kind}/{number}"))
}

/// Takes all locks and ephemeral keys, through the client itself, a clone, and a scoped one.
async fn take_all(cx: &Context, kv: &Client) -> Outcome<(Vec<Lock>, Vec<EphemeralKey>)> {
    let (mut locks, mut keys) = (Vec::new(), Vec::new());
    let scoped = (kv.scoped("lock")?, kv.scoped("key")?);
    let clone = kv.clone();
    for number in 0..HANDLES {
        if number % 2 == 0 {
            locks.push(scoped.0.lock(&number.to_string(), cx.long_ttl()).await?);
            keys.push(scoped.1.ephemeral_key(&number.to_string(), cx.long_ttl()).await?);
        } else {
            locks.push(clone.lock(&format!("lock/{number}"), cx.long_ttl()).await?);
            keys.push(kv.ephemeral_key(&format!("key/{number}"), cx.long_ttl()).await?);
        }
    }
    Ok((locks, keys))
}

/// Requires that another client can take everything without waiting.
async fn all_is_free(cx: &Context, other: &Client) -> Outcome {
    for name in names("lock") {
        let taken = other.try_lock(&name, cx.long_ttl()).await.keeps("L12")?;
        let Some(lock) = taken else {
            return Err(Broke::new("L12", format!("{name:?} is still locked after closing")));
        };
        other.call("unlock", lock.unlock()).await?;
    }
    for name in names("key") {
        let key = other.ephemeral_key(&name, cx.long_ttl()).await.keeps("L12")?;
        other.call("destroy", key.destroy()).await?;
    }
    Ok(())
}

async fn close(kv: &Client) -> Outcome {
    kv.call("close", kv.kv().close()).await.keeps("L12")
}

async fn all_is_free_at_once(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let held = take_all(&cx, &kv).await?;
    // Closed through a scoped handle, which made few of these grants.
    close(&kv.scoped("elsewhere")?).await?;
    all_is_free(&cx, &other).await?;
    drop(held);
    // Dropping the handles must not touch what has another holder by now.
    let lock = other.lock("lock/0", cx.long_ttl()).await?;
    close(&kv).await?;
    other.call("renew", lock.renew()).await.keeps("L12")
}

async fn dropped_handles_are_waited_for(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    drop(take_all(&cx, &kv).await?);
    close(&kv).await?;
    all_is_free(&cx, &other).await
}

async fn a_wait_ends_and_leaves_no_place(cx: Context) -> Outcome {
    let (holder, kv, other) = (cx.client().await?, cx.client().await?, cx.client().await?);
    let lock = holder.lock("lock", cx.long_ttl()).await?;
    let waiting = tokio::spawn({
        let (kv, ttl) = (kv.clone(), cx.long_ttl());
        async move { kv.lock("lock", ttl).await.map(drop) }
    });
    // By then the waiter has its place in the queue.
    tokio::time::sleep(cx.ttl() / 8).await;
    close(&kv).await?;
    let ended = tokio::time::timeout(cx.patience(), waiting).await;
    let Ok(Ok(ended)) = ended else {
        return Err(Broke::new("L12", format!("the wait of a closed handle goes on: {ended:?}")));
    };
    refused!("L12", ended, Error::Closed { key } if key == "lock");
    free_after(&cx, &holder, lock, &other).await
}

async fn abandoned_waits_are_waited_for(cx: Context) -> Outcome {
    let (holder, other) = (cx.client().await?, cx.client().await?);
    for pause in [Duration::from_millis(1), cx.ttl() / 8] {
        let kv = cx.client().await?;
        let lock = holder.lock("lock", cx.long_ttl()).await?;
        let waiting = tokio::time::timeout(pause, kv.lock("lock", cx.long_ttl()));
        check!("L4", waiting.await.is_err(), "a lock that is held was given a second time");
        close(&kv).await?;
        free_after(&cx, &holder, lock, &other).await?;
    }
    Ok(())
}

/// Requires that no waiter is before `other` once the holder has unlocked.
async fn free_after(cx: &Context, holder: &Client, lock: Lock, other: &Client) -> Outcome {
    holder.call("unlock", lock.unlock()).await?;
    let taken = other.try_lock("lock", cx.long_ttl()).await.keeps("L12")?;
    let Some(lock) = taken else {
        return Err(Broke::new("L12", "a wait of a closed handle has a place in the queue"));
    };
    other.call("unlock", lock.unlock()).await?;
    Ok(())
}

async fn nothing_more_is_taken(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let lock = kv.lock("lock", cx.long_ttl()).await?;
    let key = kv.ephemeral_key("key", cx.long_ttl()).await?;
    let holding = tokio::spawn({
        let held = kv.lock("held", cx.long_ttl()).await?;
        async move { held.hold(std::future::pending::<()>()).await }
    });
    let mut watch = kv.watch("data", 0).await?;
    close(&kv).await?;
    let held = tokio::time::timeout(cx.patience(), holding).await;
    check!("L12", matches!(held, Ok(Ok(Err(Error::Lost { .. })))), "held work of a closed handle: {held:?}");
    refused!("L12", kv.call("renew", lock.renew()).await, Error::Lost { key } if key == "lock");
    refused!("L12", kv.call("set the ephemeral key", key.set("")).await, Error::Lost { key } if key == "key");
    refused!("L12", kv.commit(kv.kv().txn().held(&lock).set("guarded", "")).await, Error::Lost { .. });
    refused!("L12", kv.call("unlock", lock.unlock()).await, Error::Lost { .. });
    refused!("L12", kv.lock("free", cx.long_ttl()).await, Error::Closed { key } if key == "free");
    refused!("L12", kv.try_lock("free", cx.long_ttl()).await, Error::Closed { .. });
    refused!("L12", kv.scoped("free")?.ephemeral_key("key", cx.long_ttl()).await, Error::Closed { .. });
    check!("L12", other.try_lock("free", cx.long_ttl()).await?.is_some(), "a closed handle took a lock");
    let index = kv.set("data", "1").await.keeps("L12")?;
    kv.get("data").await.keeps("L12")?;
    watch.expect(kv_core::EventType::Create, "data", "1", index).await
}

async fn twice(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    close(&cx.client().await?).await?;
    let held = take_all(&cx, &kv).await?;
    let (first, second) = tokio::join!(close(&kv), close(&kv));
    first.and(second)?;
    close(&kv).await?;
    all_is_free(&cx, &other).await?;
    drop(held);
    Ok(())
}

async fn an_end_in_time(cx: Context) -> Outcome {
    const TIMEOUT: Duration = Duration::from_secs(3);
    let other = cx.client().await?;
    let kv = cx.around(cx.fixture().connect().await?.with_timeout(TIMEOUT).scoped(cx.directory())?);
    let lock = kv.lock("lock", cx.long_ttl()).await?;
    let faults = cx.faults()?;
    let members = faults.endpoints().len();
    for member in 0..members {
        cx.hurt("pause a member", faults.pause(member)).await?;
    }
    let began = Instant::now();
    let closed = tokio::time::timeout(cx.patience(), kv.call("close", kv.kv().close())).await;
    let took = began.elapsed();
    for member in 0..members {
        cx.hurt("resume it", faults.resume(member)).await?;
    }
    let Ok(closed) = closed else {
        return Err(Broke::new("L12", format!("closing goes on after {took:?}, with a timeout of {TIMEOUT:?}")));
    };
    refused!("L12", closed, Error::LeftToLapse { keys, .. } if *keys == ["lock"]);
    cx.until("L12", "closing once the store serves again", || async { Ok(kv.kv().close().await.ok()) }).await?;
    let taken = other.try_lock("lock", cx.long_ttl()).await.keeps("L12")?;
    check!("L12", taken.is_some(), "the lock is held after closing");
    drop(lock);
    Ok(())
}
