//! Ephemeral keys, and what they share with locks: clauses [L1](kv_core::contract::CLAUSES#L1) to
//! [L3](kv_core::contract::CLAUSES#L3), [L6](kv_core::contract::CLAUSES#L6) and [L8](kv_core::contract::CLAUSES#L8).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use kv_core::{EphemeralKey, Error, EventType, Value};

use crate::case::cases;
use crate::client::{Client, is_deletion};
use crate::context::Context;
use crate::outcome::{Broke, Keeps as _, Outcome, check, refused, same};

cases! { "ephemeral":
    creates_an_empty_key ["L1"] "An ephemeral key has an empty value that every client can read, list and watch."
    refuses_a_key_that_exists ["L1"] "An ephemeral key cannot replace an existing key and leaves it unchanged."
    vanishes_after_its_time ["L1"] "Without renewal the key vanishes with a deletion event, but not before its time to live."
    vanishes_alone ["L1"] "When one key lapses, other keys of the same client stay."
    lives_while_it_is_renewed ["L1", "L2"] "A key renewed by either verb outlives its time to live."
    may_be_taken_again ["L1", "L2"] "After the key has vanished another client can take it, and for the first holder it is lost."
    set_writes_the_value ["L2"] "All clients see the holder's writes, at the index that they return."
    lost_to_another ["L2"] "A former holder neither writes, renews nor destroys the key of a later holder."
    lost_to_a_deletion ["L2"] "A deleted key is lost: no write of its holder restores it."
    destroy_removes_it_now ["L2"] "A destroyed key is gone at once and can be taken again."
    a_dropped_handle_removes_it ["L7"] "Dropping the handle removes the key long before its time to live lapses."
    times_out_of_bounds ["L3"] "Times to live outside the bounds are refused with the bounds, and those at the bounds are granted."
    times_are_rounded_up ["L3"] "A time to live between two steps is rounded up."
    a_lapsed_handle_knows ["L6"] "A handle that was not renewed in time reports the loss without asking the store."
    hold_renews ["L8", "L1"] "Holding a future renews the key and returns the future's result."
    hold_ends_with_the_key ["L8", "L2"] "When the key is lost, the held future is dropped."
    nothing_renews_after_hold ["L8"] "When a held future is dropped, renewal stops."
}

async fn creates_an_empty_key(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let mut events = other.watch("", 0).await?;
    let lease = kv.ephemeral_key("d/leased", cx.long_ttl()).await.keeps("L1")?;
    same!("L1", lease.key(), "d/leased", "the key of the handle");
    let value = other.get("d/leased").await.keeps("L1")?;
    same!("L1", value.data.len(), 0, "the length of the value");
    same!("L1", other.get_all("d/").await?.values.get("d/leased"), Some(&value), "the listed value");
    same!("L1", other.keys("d").await?, ["d/leased"], "the keys shown");
    events.expect(EventType::Create, "d/leased", "", value.index).await?;
    kv.call("destroy it", lease.destroy()).await?;
    Ok(())
}

async fn refuses_a_key_that_exists(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let index = kv.set("plain", "1").await?;
    refused!("L1", kv.ephemeral_key("plain", cx.long_ttl()).await, Error::Conflict { key } if key == "plain");
    same!("L1", kv.get("plain").await?, Value::new("1", index), "the key that exists");
    let lease = kv.ephemeral_key("leased", cx.long_ttl()).await?;
    let index = kv.call("set it", lease.set("mine")).await?;
    refused!("L1", other.ephemeral_key("leased", cx.long_ttl()).await, Error::Conflict { key } if key == "leased");
    refused!("L1", kv.ephemeral_key("leased", cx.long_ttl()).await, Error::Conflict { .. });
    refused!("W2", other.update("leased", "x", 0).await, Error::Conflict { .. });
    same!("L1", other.get("leased").await?, Value::new("mine", index), "the ephemeral key that exists");
    kv.call("destroy it", lease.destroy()).await.keeps("L1")?;
    Ok(())
}

async fn vanishes_after_its_time(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let mut events = other.watch("leased", 0).await?;
    let began = Instant::now();
    let lease = kv.ephemeral_key("leased", cx.ttl()).await?;
    let created = events.next("E1").await?;
    let gone = events.next_within("L1", cx.expiry()).await?;
    let lived = began.elapsed();
    is_deletion(&gone, "leased", created.index)?;
    check!("L1", lived >= lease.ttl(), "the key lived for {lived:?} only, of {:?}", lease.ttl());
    refused!("L1", other.get("leased").await, Error::NotFound { .. });
    Ok(())
}

async fn vanishes_alone(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let mut events = other.watch("", 0).await?;
    let long = kv.ephemeral_key("long", cx.long_ttl()).await?;
    let short = kv.ephemeral_key("short", cx.ttl()).await?;
    let destroyed = kv.ephemeral_key("destroyed", cx.long_ttl()).await?;
    let plain = kv.set("plain", "1").await?;
    kv.call("destroy one", destroyed.destroy()).await?;
    loop {
        let event = events.next_within("L1", cx.expiry()).await?;
        if event.event_type == EventType::Delete && event.key == short.key() {
            break;
        }
    }
    let left: Vec<_> = other.get_all("").await?.values.into_keys().collect();
    same!("L1", left, ["long", "plain"], "the keys left when one had lapsed and one was destroyed");
    same!("L1", other.get("plain").await?.index, plain, "the index of a plain key");
    kv.call("renew the long one", long.renew()).await.keeps("L1")?;
    kv.call("destroy the long one", long.destroy()).await?;
    Ok(())
}

async fn lives_while_it_is_renewed(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    cx.steadily(|ttl| {
        let (cx, kv, other) = (&cx, &kv, &other);
        async move {
            let key = format!("leased for {ttl:?}");
            let lease = kv.ephemeral_key(&key, ttl).await?;
            let (mut last, mut round) = (other.get(&key).await?.index, 0);
            let began = Instant::now();
            while began.elapsed() < cx.beyond(lease.ttl()) {
                tokio::time::sleep(lease.ttl() / 4).await;
                // Each verb in turn renews the key alone, for longer than the time to live.
                if round < 5 {
                    kv.call("renew it", lease.renew()).await.keeps("L2")?;
                } else {
                    last = kv.call("set it", lease.set(round.to_string())).await.keeps("L2")?;
                }
                same!("L1", other.get(&key).await.keeps("L1")?.index, last, "the index of the key");
                round += 1;
            }
            kv.call("destroy it", lease.destroy()).await.keeps("L2")
        }
    })
    .await
}

async fn may_be_taken_again(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let first = kv.ephemeral_key("leased", cx.ttl()).await?;
    let before = other.get("leased").await.map_or(0, |value| value.index);
    let second = cx
        .until("L1", "taking a key that has lapsed", || async {
            match other.kv().ephemeral_key("leased", cx.long_ttl()).await {
                Ok(lease) => Ok(Some(lease)),
                Err(Error::Conflict { .. }) => Ok(None),
                Err(error) => Err(error.into()),
            }
        })
        .await?;
    let index = other.call("set the second", second.set("second")).await?;
    check!("W1", index > before, "a key created again after index {before} has index {index}");
    refused!("L2", kv.call("set the first", first.set("first")).await, Error::Lost { key } if key == "leased");
    refused!("L2", kv.call("renew the first", first.renew()).await, Error::Lost { .. });
    refused!("L2", kv.call("destroy the first", first.destroy()).await, Error::Lost { .. });
    same!("L2", kv.get("leased").await.keeps("L2")?, Value::new("second", index), "the key of the second");
    other.call("destroy the second", second.destroy()).await.keeps("L2")?;
    Ok(())
}

async fn set_writes_the_value(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let lease = kv.ephemeral_key("leased", cx.long_ttl()).await?;
    let mut last = other.get("leased").await?.index;
    for data in ["1", "2", "2", ""] {
        let index = kv.call(&format!("set it to {data:?}"), lease.set(data)).await.keeps("L2")?;
        check!("W1", index > last, "a write after index {last} has index {index}");
        same!("L2", other.get("leased").await?, Value::new(data, index), "what others read");
        last = index;
    }
    kv.call("destroy it", lease.destroy()).await.keeps("L2")?;
    refused!("L2", other.get("leased").await, Error::NotFound { .. });
    Ok(())
}

/// An ephemeral key of `kv` that now belongs to `other`, with the value `theirs`, long before its time to live lapses.
async fn stolen(cx: &Context, kv: &Client, other: &Client) -> Outcome<(EphemeralKey, EphemeralKey, u64)> {
    let mine = kv.ephemeral_key("leased", cx.long_ttl()).await?;
    other.delete("leased").await?;
    let theirs = other.ephemeral_key("leased", cx.long_ttl()).await.keeps("L1")?;
    let index = other.call("set it", theirs.set("theirs")).await?;
    Ok((mine, theirs, index))
}

async fn lost_to_another(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let (mine, theirs, index) = stolen(&cx, &kv, &other).await?;
    refused!("L2", kv.call("set mine", mine.set("mine")).await, Error::Lost { key } if key == "leased");
    same!("L2", other.get("leased").await?, Value::new("theirs", index), "the other's key after a lost write");
    refused!("L2", kv.call("renew mine", mine.renew()).await, Error::Lost { key } if key == "leased");
    refused!("L2", kv.call("destroy mine", mine.destroy()).await, Error::Lost { key } if key == "leased");
    same!("L2", other.get("leased").await.keeps("L2")?, Value::new("theirs", index), "the other's key");
    other.call("renew theirs", theirs.renew()).await.keeps("L2")?;
    other.call("destroy theirs", theirs.destroy()).await.keeps("L2")?;

    // Dropping a handle tries to remove the key too. The deletions that follow show whether it removed another holder's
    // key.
    let (mine, theirs, index) = stolen(&cx, &kv, &other).await?;
    drop(mine);
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        same!("L2", other.get("leased").await.keeps("L2")?.index, index, "the index of the other's key");
    }
    other.call("destroy theirs", theirs.destroy()).await.keeps("L2")?;
    Ok(())
}

async fn lost_to_a_deletion(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let lease = kv.ephemeral_key("leased", cx.long_ttl()).await?;
    kv.call("set it", lease.set("1")).await?;
    other.delete("leased").await?;
    refused!("L2", kv.call("set it again", lease.set("2")).await, Error::Lost { key } if key == "leased");
    refused!("L2", other.get("leased").await, Error::NotFound { .. });
    refused!("L2", kv.call("destroy it", lease.destroy()).await, Error::Lost { .. });
    // A plain key that took its place also belongs to another client.
    let lease = kv.ephemeral_key("leased", cx.long_ttl()).await?;
    other.delete("leased").await?;
    let index = other.set("leased", "plain").await?;
    refused!("L2", kv.call("set it", lease.set("mine")).await, Error::Lost { .. });
    refused!("L2", kv.call("destroy it", lease.destroy()).await, Error::Lost { .. });
    same!("L2", other.get("leased").await.keeps("L2")?, Value::new("plain", index), "the plain key");
    Ok(())
}

async fn destroy_removes_it_now(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let mut events = other.watch("leased", 0).await?;
    for _ in 0..3 {
        let lease = other.ephemeral_key("leased", cx.long_ttl()).await.keeps("L2")?;
        let created = events.next("E1").await?;
        same!("L1", created.event_type, EventType::Create, "the event of an ephemeral key");
        other.call("destroy it", lease.destroy()).await.keeps("L2")?;
        refused!("L2", kv.get("leased").await, Error::NotFound { .. });
        events.expect_deletion("leased", created.index).await?;
    }
    Ok(())
}

async fn a_dropped_handle_removes_it(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let mut events = other.watch("leased", 0).await?;
    let lease = kv.ephemeral_key("leased", cx.long_ttl()).await?;
    let created = events.next("E1").await?;
    drop(lease);
    is_deletion(&events.next("L7").await?, "leased", created.index)?;
    refused!("L7", other.get("leased").await, Error::NotFound { .. });
    Ok(())
}

async fn times_out_of_bounds(cx: Context) -> Outcome {
    let kv = cx.client().await?;
    let limits = cx.limits();
    let nanosecond = Duration::from_nanos(1);
    let below = limits.min_ttl.checked_sub(nanosecond);
    for ttl in [below, limits.max_ttl.checked_add(nanosecond), Some(Duration::ZERO)].into_iter().flatten() {
        if ttl == limits.min_ttl {
            continue;
        }
        let (asked, least, most) = (ttl, limits.min_ttl, limits.max_ttl);
        let is_refused = |error: &Error| matches!(error, Error::InvalidTtl { ttl, min, max } if (*ttl, *min, *max) == (asked, least, most));
        refused!("L3", kv.ephemeral_key("leased", ttl).await, error if is_refused(error));
        refused!("L3", kv.lock("lock", ttl).await, error if is_refused(error));
        refused!("L3", kv.try_lock("lock", ttl).await, error if is_refused(error));
    }
    check!("L3", kv.get_all("").await?.values.is_empty(), "what was refused left something behind");
    for ttl in [limits.min_ttl, limits.max_ttl] {
        let lease = kv.ephemeral_key("leased", ttl).await.keeps("L3")?;
        check!("L3", lease.ttl() >= ttl, "{:?} was granted where {ttl:?} was asked for", lease.ttl());
        // The shortest one may lapse at any moment, also at this one.
        match kv.call("destroy it", lease.destroy()).await {
            Ok(()) | Err(Error::Lost { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        cx.until("L1", "the end of the key", || async { Ok(kv.get("leased").await.is_err().then_some(())) }).await?;
    }
    Ok(())
}

async fn times_are_rounded_up(cx: Context) -> Outcome {
    let kv = cx.client().await?;
    let step = cx.limits().ttl_step;
    let whole = cx.long_ttl();
    check!("L3", !step.is_zero(), "the step of times to live is zero");
    let nanosecond = Duration::from_nanos(1);
    for less in [Duration::ZERO, nanosecond, step / 2, step.saturating_sub(nanosecond)] {
        let asked = whole.saturating_sub(less);
        let lease = kv.ephemeral_key("leased", asked).await.keeps("L3")?;
        let granted = lease.ttl();
        check!("L3", granted >= asked, "{granted:?} was granted where {asked:?} was asked for");
        let steps = granted.as_nanos().is_multiple_of(step.as_nanos());
        check!("L3", steps, "{granted:?} was granted, which is no multiple of {step:?}");
        kv.call("destroy it", lease.destroy()).await?;
        let lock = kv.lock("lock", asked).await.keeps("L3")?;
        check!("L3", lock.ttl() >= asked, "a lock for {:?} was granted where {asked:?} was asked for", lock.ttl());
        kv.call("unlock", lock.unlock()).await?;
    }
    Ok(())
}

async fn a_lapsed_handle_knows(cx: Context) -> Outcome {
    let kv = cx.client().await?;
    let lease = kv.ephemeral_key("leased", cx.ttl()).await?;
    let lock = kv.lock("lock", cx.ttl()).await?;
    // Their time to live has passed since the grant, whatever the store says.
    tokio::time::sleep(lease.ttl().max(lock.ttl()) + Duration::from_millis(1)).await;
    refused!("L6", kv.call("renew the ephemeral key", lease.renew()).await, Error::Lost { key } if key == "leased");
    refused!("L6", kv.call("set the ephemeral key", lease.set("late")).await, Error::Lost { .. });
    refused!("L6", kv.call("renew the lock", lock.renew()).await, Error::Lost { key } if key == "lock");
    let transaction = kv.kv().txn().held(&lock).set("guarded", "late");
    refused!("L6", kv.commit(transaction).await, Error::Lost { key } if key == "lock");
    refused!("L6", kv.call("destroy the ephemeral key", lease.destroy()).await, Error::Lost { .. });
    refused!("L6", kv.call("unlock", lock.unlock()).await, Error::Lost { .. });
    refused!("L6", kv.get("guarded").await, Error::NotFound { .. });
    Ok(())
}

async fn hold_renews(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    cx.steadily(|ttl| {
        let (cx, kv, other) = (&cx, &kv, &other);
        async move {
            let key = format!("leased for {ttl:?}");
            let lease = kv.ephemeral_key(&key, ttl).await?;
            let index = other.get(&key).await?.index;
            let work = async {
                tokio::time::sleep(cx.beyond(lease.ttl())).await;
                other.get(&key).await
            };
            let read = kv.call("hold it", Box::pin(async { Ok(lease.hold(work).await) })).await?;
            let read = read.keeps("L8")?.keeps("L8")?;
            same!("L8", read, Value::new("", index), "the key after longer than its time to live");
            kv.call("destroy it", lease.destroy()).await.keeps("L8")
        }
    })
    .await
}

/// Reports on drop that a future was dropped.
struct OnDrop(Arc<AtomicBool>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

async fn hold_ends_with_the_key(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let lease = kv.ephemeral_key("leased", cx.ttl().max(Duration::from_secs(2))).await?;
    let (dropped, ticks) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let work = {
        let (on_drop, ticks) = (OnDrop(dropped.clone()), ticks.clone());
        async move {
            let _on_drop = on_drop;
            loop {
                ticks.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    };
    other.delete("leased").await?;
    let holding = tokio::time::timeout(cx.expiry() + lease.ttl(), lease.hold(work));
    let held: Result<kv_core::Result<()>, _> = holding.await;
    match held {
        Ok(result) => refused!("L8", result, Error::Lost { key } if key == "leased"),
        Err(_elapsed) => return Err(Broke::new("L8", "hold went on although the key was lost")),
    }
    check!("L8", dropped.load(Ordering::SeqCst), "the held future was not dropped");
    let ended_at = ticks.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(20)).await;
    same!("L8", ticks.load(Ordering::SeqCst), ended_at, "the ticks of the future after hold returned");
    Ok(())
}

async fn nothing_renews_after_hold(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let mut events = other.watch("leased", 0).await?;
    let lease = kv.ephemeral_key("leased", cx.ttl()).await?;
    let created = events.next("E1").await?;
    let holding = lease.hold(std::future::pending::<()>());
    let abandoned = tokio::time::timeout(lease.ttl() / 2, holding).await;
    // On a slow machine the key is lost before that.
    let ended = matches!(abandoned, Ok(Ok(())));
    check!("L8", !ended, "a future that never ends was held, and hold returned as if it had ended");
    // The handle still exists but is not renewed.
    is_deletion(&events.next_within("L8", cx.expiry()).await?, "leased", created.index)?;
    Ok(())
}
