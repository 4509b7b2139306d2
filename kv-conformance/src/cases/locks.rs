//! Locks: clauses [L4](kv_core::contract::CLAUSES#L4) to [L8](kv_core::contract::CLAUSES#L8).
//!
//! Longer than most files: it has one short function for each case of one subject.

use std::time::{Duration, Instant};

use kv_core::{Error, Lock, Value};

use crate::case::cases;
use crate::client::Client;
use crate::context::Context;
use crate::outcome::{Broke, Keeps as _, Outcome, check, refused, same};

cases! { "locks":
    excludes_others ["L4"] "A held lock is not granted again, not even to the holder's own client."
    try_lock_does_not_wait ["L4"] "Trying a held lock returns at once without it, every time."
    lock_waits_its_turn ["L4", "L7"] "A wait for a lock ends when the lock is unlocked, and not before."
    many_waiters_each_get_it ["L4", "L7"] "Each of many waiters gets the lock once."
    locks_are_independent ["L4"] "Locks with different but similar names are independent."
    odd_names ["L4", "K1"] "A lock's name may contain every character that a key may contain."
    an_abandoned_wait_leaves_nothing ["L4"] "An abandoned wait does not get the lock and does not block other waiters."
    a_crashed_holders_lock_passes_on ["L4", "L1"] "A lock that is not renewed passes to a waiter, but not before its time to live."
    a_lock_leaves_no_value ["L4", "L7"] "Once unlocked, the key may be used for a value, and locked again after that."
    renewal_keeps_it ["L4", "L8"] "A renewed lock outlives its time to live."
    tokens_grow ["L5"] "Each later holder has a greater token, however it got the lock."
    the_guard_lets_the_holder_write ["L5", "W5"] "Writes guarded by a held lock are applied, together with other checks."
    the_guard_refuses_after_unlock ["L5"] "The store refuses writes guarded by a lock that was unlocked."
    the_guard_refuses_the_former_holder ["L5", "W5"] "The store refuses all writes guarded by a lock that has another holder now."
    the_guard_refuses_after_expiry ["L5"] "The store refuses writes guarded by a lock that has lapsed and passed on."
    unlock_frees_at_once ["L7"] "An unlocked lock can be taken at once."
    unlock_reports_a_lost_lock ["L7", "L6"] "Unlocking a lock that has passed on reports the loss and does not affect its new holder."
    a_dropped_handle_frees_it ["L7"] "A lock whose handle was dropped can be taken long before its time to live lapses."
    hold_keeps_and_returns ["L8"] "Holding a future renews the lock and returns the future's result."
}

/// Takes a lock that is free or about to be freed.
async fn take(client: &Client, cx: &Context, clause: &'static str, key: &str) -> Outcome<Lock> {
    let waiting = tokio::time::timeout(cx.patience(), client.lock(key, cx.long_ttl()));
    waiting
        .await
        .map_err(|_| Broke::new(clause, format!("the wait for lock {key:?} goes on, although it is free")))?
        .keeps(clause)
}

async fn excludes_others(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let lock = kv.lock("lock", cx.long_ttl()).await.keeps("L4")?;
    same!("L4", lock.key(), "lock", "the key of the lock");
    for client in [&other, &kv] {
        let second = client.try_lock("lock", cx.long_ttl()).await.keeps("L4")?;
        check!(
            "L4",
            second.is_none(),
            "the lock was given a second time, with token {:?}",
            second.map(|it| it.token())
        );
    }
    kv.call("unlock", lock.unlock()).await.keeps("L7")?;
    let lock = other.try_lock("lock", cx.long_ttl()).await.keeps("L4")?;
    check!("L4", lock.is_some(), "a free lock was not given");
    let second = kv.try_lock("lock", cx.long_ttl()).await.keeps("L4")?;
    check!("L4", second.is_none(), "a lock that was taken by trying was given a second time");
    Ok(())
}

async fn try_lock_does_not_wait(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let lock = kv.lock("lock", cx.long_ttl()).await?;
    for _ in 0..5 {
        let trying = tokio::time::timeout(cx.patience(), other.try_lock("lock", cx.long_ttl()));
        let tried =
            trying.await.map_err(|_| Broke::new("L4", "try_lock waited for a lock that is held"))?.keeps("L4")?;
        check!("L4", tried.is_none(), "the lock was given a second time");
    }
    kv.call("unlock", lock.unlock()).await?;
    // If a try had left anything behind, the lock would not be free.
    let lock = other.try_lock("lock", cx.long_ttl()).await.keeps("L4")?;
    check!("L4", lock.is_some(), "a lock that others tried for is not free");
    Ok(())
}

async fn lock_waits_its_turn(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    for _ in 0..5 {
        let lock = kv.lock("lock", cx.long_ttl()).await?;
        let waiting = other.lock("lock", cx.long_ttl());
        tokio::pin!(waiting);
        let early = tokio::time::timeout(Duration::from_millis(30), &mut waiting).await;
        check!("L4", early.is_err(), "lock did not wait for a lock that is held: {early:?}");
        kv.call("unlock", lock.unlock()).await.keeps("L7")?;
        let given = tokio::time::timeout(cx.patience(), waiting).await;
        let lock =
            given.map_err(|_| Broke::new("L7", "a waiter is not given a lock that was unlocked"))?.keeps("L4")?;
        other.call("unlock", lock.unlock()).await?;
    }
    Ok(())
}

async fn many_waiters_each_get_it(cx: Context) -> Outcome {
    let kv = cx.client().await?;
    let first = kv.lock("lock", cx.long_ttl()).await?;
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..12 {
        let (cx, client) = (cx.clone(), cx.client().await?);
        waiting.spawn(async move {
            let lock = client.lock("lock", cx.long_ttl()).await.keeps("L4")?;
            // This creation fails if two holders are here at the same time.
            client.update("inside", "", 0).await.keeps("L4")?;
            client.delete("inside").await?;
            client.call("unlock", lock.unlock()).await.keeps("L7")
        });
    }
    kv.call("unlock", first.unlock()).await?;
    for place in 0..12 {
        let next = tokio::time::timeout(cx.patience(), waiting.join_next()).await;
        match next.map_err(|_| Broke::new("L4", format!("only {place} of 12 waiters were given the lock")))? {
            Some(Ok(outcome)) => outcome?,
            other => check!("L4", false, "a waiter ended with {other:?}"),
        }
    }
    Ok(())
}

async fn locks_are_independent(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let mut held = Vec::new();
    for key in ["lock", "lock1", "lock10", "Lock", "loc", "lock-", "other/lock"] {
        let lock = other.try_lock(key, cx.long_ttl()).await.keeps("L4")?;
        let Some(lock) = lock else {
            return Err(Broke::new("L4", format!("{key:?} is taken, although it has no holder")));
        };
        held.push(lock);
    }
    for lock in held.drain(1..) {
        other.call(&format!("unlock {:?}", lock.key()), lock.unlock()).await.keeps("L7")?;
    }
    let second = kv.try_lock("lock", cx.long_ttl()).await?;
    check!("L4", second.is_none(), "the lock was given a second time once others were unlocked");
    Ok(())
}

async fn odd_names(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    for key in ["a b+c", "%2F/x", "?#&", "ключ/🔑", ".locks", "*"] {
        let lock = kv.lock(key, cx.long_ttl()).await.keeps("K1")?;
        same!("K1", lock.key(), key, "the key of the lock");
        check!("L4", other.try_lock(key, cx.long_ttl()).await?.is_none(), "{key:?} was given a second time");
        let index = kv.commit(kv.kv().txn().held(&lock).set("guarded", key.to_owned())).await.keeps("L5")?;
        same!(
            "L5",
            other.get("guarded").await?,
            Value::new(key, index.unwrap_or_default()),
            "what was guarded by {key:?}"
        );
        kv.call("unlock", lock.unlock()).await.keeps("L7")?;
    }
    Ok(())
}

async fn an_abandoned_wait_leaves_nothing(cx: Context) -> Outcome {
    let (kv, other, third) = (cx.client().await?, cx.client().await?, cx.client().await?);
    for delay in [0, 1, 5, 40] {
        let lock = kv.lock("lock", cx.long_ttl()).await?;
        let waiting = tokio::time::timeout(Duration::from_millis(delay), other.lock("lock", cx.long_ttl()));
        check!("L4", waiting.await.is_err(), "a held lock was given to a waiter after {delay} ms");
        kv.call("unlock", lock.unlock()).await?;
        let lock = take(&third, &cx, "L4", "lock").await?;
        third.call("unlock", lock.unlock()).await?;
        cx.until("L4", "a lock that another stopped waiting for", || async {
            Ok(kv.kv().try_lock("lock", cx.long_ttl()).await.keeps("L4")?.map(drop))
        })
        .await?;
        cx.until("L7", "a lock whose handle was dropped", || async {
            let Some(lock) = kv.kv().try_lock("lock", cx.long_ttl()).await.keeps("L4")? else { return Ok(None) };
            lock.unlock().await.keeps("L7").map(Some)
        })
        .await?;
    }
    // An abandoned wait does not block the waiters behind it.
    let lock = kv.lock("lock", cx.long_ttl()).await?;
    let behind = {
        let mut first = Box::pin(other.lock("lock", cx.long_ttl()));
        let early = tokio::time::timeout(Duration::from_millis(20), &mut first).await;
        check!("L4", early.is_err(), "a lock that is held was given a second time");
        let cx = cx.clone();
        tokio::spawn(async move { third.lock("lock", cx.long_ttl()).await })
    };
    kv.call("unlock", lock.unlock()).await?;
    match tokio::time::timeout(cx.patience(), behind).await {
        Ok(Ok(lock)) => drop(lock.keeps("L4")?),
        other => {
            return Err(Broke::new("L4", format!("a waiter behind one that left is not given the lock: {other:?}")));
        }
    }
    Ok(())
}

async fn a_crashed_holders_lock_passes_on(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let began = Instant::now();
    let first = kv.lock("lock", cx.ttl()).await?;
    let waiting = tokio::time::timeout(cx.expiry(), other.lock("lock", cx.long_ttl()));
    let second =
        waiting.await.map_err(|_| Broke::new("L4", "a lock that is not renewed did not pass on"))?.keeps("L4")?;
    let waited = began.elapsed();
    check!("L4", waited >= first.ttl(), "a lock for {:?} passed on after {waited:?}", first.ttl());
    check!("L5", second.token() > first.token(), "the tokens are {} and then {}", first.token(), second.token());
    Ok(())
}

async fn a_lock_leaves_no_value(cx: Context) -> Outcome {
    let kv = cx.client().await?;
    for round in 0..3 {
        let lock = kv.lock("key", cx.long_ttl()).await.keeps("L4")?;
        kv.call("unlock", lock.unlock()).await.keeps("L7")?;
        refused!("L7", kv.get("key").await, Error::NotFound { .. });
        let index = kv.update("key", round.to_string(), 0).await.keeps("L7")?;
        kv.remove("key", index).await?;
    }
    Ok(())
}

async fn renewal_keeps_it(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    cx.steadily(|ttl| {
        let (cx, kv, other) = (&cx, &kv, &other);
        async move {
            let key = format!("lock for {ttl:?}");
            let lock = kv.lock(&key, ttl).await?;
            let began = Instant::now();
            while began.elapsed() < cx.beyond(lock.ttl()) {
                tokio::time::sleep(lock.ttl() / 4).await;
                kv.call("renew", lock.renew()).await.keeps("L4")?;
                let second = other.try_lock(&key, cx.long_ttl()).await?;
                check!("L4", second.is_none(), "the lock was given a second time though it is renewed");
            }
            kv.commit(kv.kv().txn().held(&lock).set("guarded", "1")).await.keeps("L5")?;
            kv.call("unlock", lock.unlock()).await.keeps("L7")
        }
    })
    .await
}

async fn tokens_grow(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let mut last = 0;
    for round in 0..8 {
        let client = if round % 2 == 0 { &kv } else { &other };
        let lock = if round % 3 == 0 {
            cx.until("L4", "a free lock", || async { Ok(client.kv().try_lock("lock", cx.long_ttl()).await?) }).await?
        } else {
            take(client, &cx, "L4", "lock").await?
        };
        let token = lock.token();
        cx.note(format_args!("round {round}: the token is {token}"));
        check!("L5", token > last, "after token {last} the next holder has {token}");
        last = token;
        match round % 4 {
            0 => drop(lock),
            1 => {
                client.call("renew", lock.renew()).await?;
                same!("L5", lock.token(), token, "the token after a renewal");
                client.call("unlock", lock.unlock()).await?;
            }
            _ => client.call("unlock", lock.unlock()).await?,
        }
    }
    Ok(())
}

async fn the_guard_lets_the_holder_write(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let lock = kv.lock("lock", cx.long_ttl()).await?;
    let first = kv.commit(kv.kv().txn().held(&lock).set("a", "1").set("b", "1")).await.keeps("L5")?;
    same!("L5", other.get("b").await.keeps("L5")?, Value::new("1", first.unwrap_or_default()), "a guarded write");
    let second =
        kv.commit(kv.kv().txn().held(&lock).check("a", first.unwrap_or_default()).set("a", "2").delete("b")).await;
    let second = second.keeps("L5")?.unwrap_or_default();
    let before = other.get_all("a").await?.values;
    same!("L5", before.get("a"), Some(&Value::new("2", second)), "a guarded update");
    let stale = kv.commit(kv.kv().txn().held(&lock).check("a", first.unwrap_or_default()).set("a", "3")).await;
    refused!("W5", stale, Error::Conflict { key } if key == "a");
    same!("W5", other.get_all("a").await?.values, before, "what is stored after a refused guarded write");
    // A renewal does not begin a new tenure.
    let built = kv.kv().txn().held(&lock).set("a", "4");
    kv.call("renew", lock.renew()).await?;
    kv.commit(built).await.keeps("L5")?;
    kv.commit(kv.kv().txn().held(&lock)).await.keeps("L5")?;
    kv.call("unlock", lock.unlock()).await.keeps("L7")?;
    Ok(())
}

async fn the_guard_refuses_after_unlock(cx: Context) -> Outcome {
    let kv = cx.client().await?;
    let lock = kv.lock("lock", cx.long_ttl()).await?;
    // Built while the lock is held, so that only the store can refuse it.
    let transaction = kv.kv().txn().held(&lock).set("guarded", "1");
    let only_guard = kv.kv().txn().held(&lock);
    kv.call("unlock", lock.unlock()).await?;
    refused!("L5", kv.commit(transaction).await, Error::Lost { key } if key == "lock");
    refused!("L5", kv.commit(only_guard).await, Error::Lost { key } if key == "lock");
    refused!("L5", kv.get("guarded").await, Error::NotFound { .. });
    Ok(())
}

async fn the_guard_refuses_the_former_holder(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let first = kv.lock("lock", cx.long_ttl()).await?;
    kv.commit(kv.kv().txn().held(&first).set("guarded", "first").set("t/a", "1")).await?;
    let old = kv.kv().txn().held(&first).set("guarded", "late").set("new", "late").delete_tree("t");
    let again = kv.kv().txn().held(&first).set("guarded", "late");
    kv.call("unlock", first.unlock()).await?;
    let second = take(&other, &cx, "L7", "lock").await?;
    other.commit(other.kv().txn().held(&second).set("guarded", "second")).await.keeps("L5")?;
    let before = other.get_all("").await?.values;
    refused!("L5", kv.commit(old).await, Error::Lost { key } if key == "lock");
    same!("W5", other.get_all("").await?.values, before, "what is stored after the former holder's write");
    // The lock in the same client's hands is another tenure all the same.
    other.call("unlock", second.unlock()).await?;
    let third = take(&kv, &cx, "L7", "lock").await?;
    refused!("L5", kv.commit(again).await, Error::Lost { key } if key == "lock");
    kv.commit(kv.kv().txn().held(&third).set("guarded", "third")).await.keeps("L5")?;
    Ok(())
}

async fn the_guard_refuses_after_expiry(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let first = kv.lock("lock", cx.ttl()).await?;
    let late = kv.kv().txn().held(&first).set("guarded", "late");
    let waiting = tokio::time::timeout(cx.expiry(), other.lock("lock", cx.long_ttl()));
    let second =
        waiting.await.map_err(|_| Broke::new("L4", "a lock that is not renewed did not pass on"))?.keeps("L4")?;
    refused!("L5", kv.commit(late).await, Error::Lost { key } if key == "lock");
    refused!("L5", kv.get("guarded").await, Error::NotFound { .. });
    other.commit(other.kv().txn().held(&second).set("guarded", "second")).await.keeps("L5")?;
    drop(first);
    other.commit(other.kv().txn().held(&second).set("guarded", "still")).await.keeps("L7")?;
    Ok(())
}

async fn unlock_frees_at_once(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    for _ in 0..5 {
        let lock = kv.lock("lock", cx.long_ttl()).await?;
        kv.call("unlock", lock.unlock()).await.keeps("L7")?;
        let lock = other.try_lock("lock", cx.long_ttl()).await?;
        let Some(lock) = lock else { return Err(Broke::new("L7", "a lock that was unlocked is not free")) };
        other.call("unlock", lock.unlock()).await.keeps("L7")?;
    }
    Ok(())
}

async fn unlock_reports_a_lost_lock(cx: Context) -> Outcome {
    let (kv, other, third) = (cx.client().await?, cx.client().await?, cx.client().await?);
    let first = kv.lock("lock", cx.ttl()).await?;
    let waiting = tokio::time::timeout(cx.expiry(), other.lock("lock", cx.long_ttl()));
    let second =
        waiting.await.map_err(|_| Broke::new("L4", "a lock that is not renewed did not pass on"))?.keeps("L4")?;
    refused!("L7", kv.call("renew the first", first.renew()).await, Error::Lost { key } if key == "lock");
    refused!("L7", kv.call("unlock the first", first.unlock()).await, Error::Lost { key } if key == "lock");
    check!("L7", third.try_lock("lock", cx.long_ttl()).await?.is_none(), "the second's lock was freed by the first");
    other.call("renew the second", second.renew()).await.keeps("L7")?;
    other.call("unlock the second", second.unlock()).await.keeps("L7")?;
    Ok(())
}

async fn a_dropped_handle_frees_it(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let lock = kv.lock("lock", cx.long_ttl()).await?;
    drop(lock);
    let lock = take(&other, &cx, "L7", "lock").await?;
    // Dropped while another waits already.
    let waiting = kv.lock("lock", cx.long_ttl());
    tokio::pin!(waiting);
    let early = tokio::time::timeout(Duration::from_millis(10), &mut waiting).await;
    check!("L4", early.is_err(), "a lock that is held was given a second time");
    drop(lock);
    let given = tokio::time::timeout(cx.patience(), waiting).await;
    drop(given.map_err(|_| Broke::new("L7", "a lock whose handle was dropped is not free"))?.keeps("L4")?);
    Ok(())
}

async fn hold_keeps_and_returns(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    cx.steadily(|ttl| {
        let (cx, kv, other) = (&cx, &kv, &other);
        async move {
            let key = format!("lock for {ttl:?}");
            let lock = kv.lock(&key, ttl).await?;
            let work = async {
                tokio::time::sleep(cx.beyond(lock.ttl())).await;
                let second = other.try_lock(&key, cx.long_ttl()).await?;
                kv.commit(kv.kv().txn().held(&lock).set("guarded", "1")).await?;
                Ok::<_, Error>(second.is_none())
            };
            let excluded = kv.call("hold", Box::pin(lock.hold(work))).await.keeps("L8")?.keeps("L8")?;
            check!("L4", excluded, "the lock was given a second time while it was held");
            kv.call("unlock", lock.unlock()).await.keeps("L8")
        }
    })
    .await
}
