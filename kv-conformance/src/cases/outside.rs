//! Locks as other callers see and change them: [clause L10](kv_core::contract::CLAUSES#L10).
//!
//! Longer than most files: it has one short function for each case of one subject.

use kv_core::{Error, EventType, Lock, Value};
use tokio::task::JoinHandle;

use crate::case::cases;
use crate::client::{Client, Events};
use crate::context::Context;
use crate::outcome::{Broke, Keeps as _, Outcome, check, refused, same};

cases! { "outside":
    get_does_not_see_a_lock ["L10"] "The name of a held lock reads as absent."
    listings_do_not_show_a_lock ["L10", "R2"] "A listing above, at and below the name of a held lock shows the data there and nothing else."
    keys_do_not_show_a_lock ["L10", "R3"] "The keys of a directory are the same with and without a held lock in it."
    waiters_are_not_shown ["L10"] "No read shows the waiters for a lock."
    observe_lists_no_lock ["L10", "E6"] "An observation lists nothing of a lock, and shows none of its changes."
    a_watch_shows_no_lock ["L10", "E2"] "A watch shows nothing of a lock that is taken, waited for, handed over and released."
    a_watch_shows_no_lost_lock ["L10", "E2"] "A watch shows nothing of a lock that lapses."
    history_shows_no_lock ["L10", "E1"] needs [EveryChange] "A watch that begins in the past shows nothing of the locks that were held since."
    set_does_not_touch_a_lock ["L10"] "The name of a held lock can be set and read, and the lock stays held."
    update_creates_beside_a_lock ["L10", "W2"] "The name of a held lock counts as absent for a creation, and the lock stays held."
    remove_does_not_see_a_lock ["L10", "W3"] "The name of a held lock counts as absent for a removal, and the lock stays held."
    delete_does_not_touch_a_lock ["L10"] "Deleting the name of a held lock leaves the lock, and guarded writes are applied."
    an_ephemeral_key_beside_a_lock ["L10", "L1"] "The name of a held lock can hold an ephemeral key, which is created and destroyed without the lock."
    a_transaction_does_not_see_a_lock ["L10", "W5"] "A transaction can check that the name of a held lock is absent, and write it under the lock's own guard."
    events_at_the_name_are_those_of_the_data ["L10", "E2"] "Writes at the name of a held lock give the events of the data alone."
    a_value_does_not_block_a_lock ["L10", "L4"] "A name that holds a value can be locked, by either verb, and keeps its value."
    an_ephemeral_key_does_not_block_a_lock ["L10", "L4"] "A name that holds an ephemeral key can be locked, and the key stays."
    data_below_does_not_block_a_lock ["L10", "L4"] "A name with data below it can be locked, and the data stays."
    data_does_not_join_the_queue ["L10", "L13"] "Data that is written at and below a name while its lock is waited for does not hold the waiter up."
    data_that_looks_like_a_lock ["L10"] "A key that only looks like an entry of a lock is data: it is shown, and blocks no lock."
    locks_inside_one_another ["L10", "L4"] "Locks below the name of another lock are independent of it."
    try_lock_of_a_held_lock_with_a_value ["L10", "L4"] "Trying for a held lock whose name holds a value says that it is held."
    delete_tree_at_the_name ["L10", "W4"] "Deleting the tree at the name of a held lock ends it: the handle is lost, its guarded writes are refused."
    delete_tree_above_the_name ["L10", "W4"] "Deleting a tree above the name of a held lock ends it in the same way."
    a_transaction_deletes_the_tree ["L10", "W5"] "A transaction that deletes a tree ends the locks in it."
    waiters_go_on_after_delete_tree ["L10", "L4"] "The waiters for a lock whose tree is deleted get it one after the other."
    delete_tree_elsewhere ["L10", "W4"] "Deleting the trees beside and below the name of a held lock leaves the lock."
    the_segment_of_locks_is_reserved ["K1", "L10"] "No verb takes a key with a segment `.lock`."
}

/// Requires that a held lock can still be renewed, guards writes and excludes others.
async fn still_held(cx: &Context, kv: &Client, other: &Client, lock: &Lock) -> Outcome {
    kv.call("renew the lock", lock.renew()).await.keeps("L10")?;
    kv.commit(kv.kv().txn().held(lock).set("guarded", "1")).await.keeps("L10")?;
    let second = other.try_lock(lock.key(), cx.long_ttl()).await.keeps("L10")?;
    check!("L4", second.is_none(), "{:?} was given a second time", lock.key());
    Ok(())
}

/// Requires that the lock is lost to its handle, and that the store refuses a write that was guarded while it was held.
async fn is_lost(kv: &Client, lock: Lock, guarded: kv_core::TxnBuilder) -> Outcome {
    refused!("L10", kv.commit(guarded).await, Error::Lost { .. });
    refused!("L10", kv.get("guarded").await, Error::NotFound { .. });
    refused!("L10", kv.call("renew the lock", lock.renew()).await, Error::Lost { .. });
    refused!("L10", kv.call("unlock", lock.unlock()).await, Error::Lost { .. });
    Ok(())
}

/// Requires that a watch shows nothing of a lock: its next event is that of a write made now.
async fn sees_only(kv: &Client, events: &mut Events) -> Outcome {
    let index = kv.set("dir/after", "1").await?;
    let event = events.next("L10").await?;
    let is_it = event.key == "dir/after" && event.index == index;
    check!("L10", is_it, "a watch shows {} of {:?} at {}", event.event_type, event.key, event.index);
    Ok(())
}

/// The listed keys with their data.
async fn listed(kv: &Client, prefix: &str) -> Outcome<Vec<(String, Value)>> {
    Ok(kv.get_all(prefix).await.keeps("L10")?.values.into_iter().collect())
}

/// Waits for a lock in a task of its own, and unlocks it at once.
fn waiter(cx: &Context, client: Client, key: &'static str) -> JoinHandle<Outcome> {
    let cx = cx.clone();
    tokio::spawn(async move {
        let lock = client.lock(key, cx.long_ttl()).await.keeps("L10")?;
        client.call("unlock", lock.unlock()).await.keeps("L7")
    })
}

async fn served(cx: &Context, waiter: JoinHandle<Outcome>) -> Outcome {
    match tokio::time::timeout(cx.patience(), waiter).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(panic)) => Err(Broke { clause: None, what: panic.to_string() }),
        Err(_elapsed) => Err(Broke::new("L10", "a waiter is not given the lock")),
    }
}

/// Gives waiters time to join the queue of a lock, which no read shows.
async fn queued(waiters: &[JoinHandle<Outcome>]) {
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    debug_assert!(waiters.iter().all(|waiter| !waiter.is_finished()), "a held lock is given to no waiter");
}

async fn get_does_not_see_a_lock(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let lock = kv.lock("dir/lock", cx.long_ttl()).await?;
    for client in [&other, &kv] {
        refused!("L10", client.get("dir/lock").await, Error::NotFound { key } if key == "dir/lock");
    }
    still_held(&cx, &kv, &other, &lock).await
}

async fn listings_do_not_show_a_lock(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let lock = kv.lock("dir/lock", cx.long_ttl()).await?;
    for prefix in ["", "dir", "dir/", "dir/lock", "dir/lock/", "dir/lock/."] {
        same!("L10", listed(&other, prefix).await?, [], "what a listing of {prefix:?} shows of a lock");
    }
    let beside = ("dir/locks".to_owned(), Value::new("1", other.set("dir/locks", "1").await?));
    let below = ("dir/lock/data".to_owned(), Value::new("2", other.set("dir/lock/data", "2").await?));
    for (prefix, expected) in
        [("", vec![&below, &beside]), ("dir/lock", vec![&below, &beside]), ("dir/lock/", vec![&below])]
    {
        let seen = listed(&other, prefix).await?;
        same!("L10", seen.iter().collect::<Vec<_>>(), expected, "what a listing of {prefix:?} shows around a lock");
    }
    drop(lock);
    Ok(())
}

async fn keys_do_not_show_a_lock(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let _lock = kv.lock("dir/lock", cx.long_ttl()).await?;
    for directory in ["", "dir", "dir/lock"] {
        same!("L10", other.keys(directory).await.keeps("L10")?, [""; 0], "the keys of {directory:?} with a lock");
    }
    other.set("dir/lock/data", "1").await?;
    same!("L10", other.keys("").await?, ["dir/"], "the keys above");
    same!("L10", other.keys("dir").await?, ["dir/lock/"], "the keys beside the lock");
    same!("L10", other.keys("dir/lock").await?, ["dir/lock/data"], "the keys below the lock's name");
    other.set("dir/lock", "1").await?;
    same!("L10", other.keys("dir").await?, ["dir/lock", "dir/lock/"], "the keys with a value at the lock's name");
    Ok(())
}

async fn waiters_are_not_shown(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let lock = kv.lock("dir/lock", cx.long_ttl()).await?;
    let waiters = [waiter(&cx, cx.client().await?, "dir/lock"), waiter(&cx, cx.client().await?, "dir/lock")];
    queued(&waiters).await;
    refused!("L10", other.get("dir/lock").await, Error::NotFound { .. });
    for prefix in ["", "dir/lock", "dir/lock/"] {
        same!("L10", listed(&other, prefix).await?, [], "what a listing of {prefix:?} shows of waiters");
    }
    for directory in ["", "dir", "dir/lock"] {
        same!("L10", other.keys(directory).await?, [""; 0], "the keys of {directory:?} with a lock that is waited for");
    }
    kv.call("unlock", lock.unlock()).await?;
    for waiter in waiters {
        served(&cx, waiter).await?;
    }
    Ok(())
}

async fn observe_lists_no_lock(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let lock = kv.lock("dir/lock", cx.long_ttl()).await?;
    let (listing, mut events) = other.observe("dir/").await.keeps("L10")?;
    same!("L10", listing.values.keys().collect::<Vec<_>>(), [""; 0], "what an observation lists of a lock");
    kv.call("unlock", lock.unlock()).await?;
    sees_only(&kv, &mut events).await
}

async fn a_watch_shows_no_lock(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let mut events = other.watch("dir", 0).await?;
    let mut in_the_directory = other.watch("dir/", 0).await?;
    let lock = kv.lock("dir/lock", cx.long_ttl()).await?;
    let waiters = [waiter(&cx, cx.client().await?, "dir/lock"), waiter(&cx, cx.client().await?, "dir/lock")];
    queued(&waiters).await;
    kv.call("renew", lock.renew()).await?;
    kv.call("unlock", lock.unlock()).await?;
    for waiter in waiters {
        served(&cx, waiter).await?;
    }
    drop(kv.try_lock("dir/lock", cx.long_ttl()).await?);
    sees_only(&kv, &mut events).await?;
    let event = in_the_directory.next("L10").await?;
    same!("L10", event.key, "dir/after", "what a watch of the directory shows");
    Ok(())
}

async fn a_watch_shows_no_lost_lock(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let mut events = other.watch("dir/", 0).await?;
    let _lock = kv.lock("dir/lock", cx.ttl()).await?;
    let passed_on = tokio::time::timeout(cx.expiry(), other.lock("dir/lock", cx.long_ttl())).await;
    let _second = passed_on.map_err(|_| Broke::new("L4", "a lock that is not renewed did not pass on"))?.keeps("L4")?;
    sees_only(&kv, &mut events).await
}

async fn history_shows_no_lock(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let before = kv.set("dir/before", "1").await?;
    let lock = kv.lock("dir/lock", cx.long_ttl()).await?;
    kv.call("unlock", lock.unlock()).await?;
    let _held = kv.lock("dir/lock", cx.long_ttl()).await?;
    let mut events = other.watch("dir/", before).await.keeps("E1")?;
    sees_only(&kv, &mut events).await
}

async fn set_does_not_touch_a_lock(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let lock = kv.lock("lock", cx.long_ttl()).await?;
    for (client, data) in [(&other, "1"), (&kv, "2"), (&other, "")] {
        let index = client.set("lock", data).await.keeps("L10")?;
        same!("L10", other.get("lock").await.keeps("L10")?, Value::new(data, index), "the value at the lock's name");
        still_held(&cx, &kv, &other, &lock).await?;
    }
    kv.call("unlock", lock.unlock()).await.keeps("L10")?;
    same!("L10", other.get("lock").await.keeps("L10")?.data, "", "the value once the lock is released");
    Ok(())
}

async fn update_creates_beside_a_lock(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let lock = kv.lock("lock", cx.long_ttl()).await?;
    let created = other.update("lock", "1", 0).await.keeps("L10")?;
    still_held(&cx, &kv, &other, &lock).await?;
    refused!("W2", other.update("lock", "2", 0).await, Error::Conflict { .. });
    let updated = other.update("lock", "2", created).await.keeps("L10")?;
    still_held(&cx, &kv, &other, &lock).await?;
    same!("L10", kv.get("lock").await?, Value::new("2", updated), "the value at the lock's name");
    Ok(())
}

async fn remove_does_not_see_a_lock(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let lock = kv.lock("lock", cx.long_ttl()).await?;
    other.remove("lock", 0).await.keeps("L10")?;
    refused!("L10", other.remove("lock", lock.token()).await, Error::Conflict { .. });
    still_held(&cx, &kv, &other, &lock).await?;
    let index = other.set("lock", "1").await.keeps("L10")?;
    other.remove("lock", index).await.keeps("L10")?;
    refused!("L10", other.get("lock").await, Error::NotFound { .. });
    still_held(&cx, &kv, &other, &lock).await
}

async fn delete_does_not_touch_a_lock(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let lock = kv.lock("lock", cx.long_ttl()).await?;
    other.delete("lock").await.keeps("L10")?;
    still_held(&cx, &kv, &other, &lock).await?;
    other.set("lock", "1").await.keeps("L10")?;
    kv.delete("lock").await.keeps("L10")?;
    refused!("L10", other.get("lock").await, Error::NotFound { .. });
    still_held(&cx, &kv, &other, &lock).await?;
    kv.call("unlock", lock.unlock()).await.keeps("L10")
}

async fn an_ephemeral_key_beside_a_lock(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let lock = kv.lock("name", cx.long_ttl()).await?;
    let key = other.ephemeral_key("name", cx.long_ttl()).await.keeps("L10")?;
    let index = other.call("set it", key.set("1")).await.keeps("L10")?;
    same!("L10", kv.get("name").await.keeps("L10")?, Value::new("1", index), "the ephemeral key");
    still_held(&cx, &kv, &other, &lock).await?;
    other.call("destroy it", key.destroy()).await.keeps("L10")?;
    still_held(&cx, &kv, &other, &lock).await?;
    // The other way round, the lock is unlocked, and the key stays.
    let key = other.ephemeral_key("name", cx.long_ttl()).await.keeps("L10")?;
    kv.call("unlock", lock.unlock()).await.keeps("L10")?;
    other.call("renew it", key.renew()).await.keeps("L10")?;
    kv.get("name").await.keeps("L10").map(drop)
}

async fn a_transaction_does_not_see_a_lock(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let lock = kv.lock("lock", cx.long_ttl()).await?;
    other.commit(other.kv().txn().check("lock", 0).set("other", "1")).await.keeps("L10")?;
    let index = kv.commit(kv.kv().txn().held(&lock).check("lock", 0).set("lock", "1")).await.keeps("L10")?;
    let value = Value::new("1", index.unwrap_or_default());
    same!("L10", other.get("lock").await.keeps("L10")?, value, "what the holder wrote at the lock's name");
    kv.commit(kv.kv().txn().held(&lock).check("lock", value.index).delete("lock")).await.keeps("L10")?;
    still_held(&cx, &kv, &other, &lock).await
}

async fn events_at_the_name_are_those_of_the_data(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let mut events = other.watch("lock", 0).await?;
    let lock = kv.lock("lock", cx.long_ttl()).await?;
    let created = other.set("lock", "1").await.keeps("L10")?;
    events.expect(EventType::Create, "lock", "1", created).await?;
    let updated = other.set("lock", "2").await.keeps("L10")?;
    events.expect(EventType::Update, "lock", "2", updated).await?;
    kv.call("unlock", lock.unlock()).await.keeps("L10")?;
    other.delete("lock").await.keeps("L10")?;
    events.expect_deletion("lock", updated).await.map(drop)
}

/// Locks a name by either verb, and requires that the data there stays unchanged.
async fn lockable(cx: &Context, kv: &Client, other: &Client, key: &str) -> Outcome {
    let before = listed(other, "").await?;
    let waiting = tokio::time::timeout(cx.patience(), kv.lock(key, cx.long_ttl())).await;
    let lock = waiting
        .map_err(|_| Broke::new("L10", format!("lock {key:?} waits, although it has no holder")))?
        .keeps("L10")?;
    let second = other.try_lock(key, cx.long_ttl()).await.keeps("L10")?;
    check!("L4", second.is_none(), "{key:?} was given a second time");
    same!("L10", listed(other, "").await?, before, "what is stored while {key:?} is locked");
    kv.call("unlock", lock.unlock()).await.keeps("L10")?;
    let lock = kv.try_lock(key, cx.long_ttl()).await.keeps("L10")?;
    let Some(lock) = lock else {
        return Err(Broke::new("L10", format!("{key:?} is taken, although it has no holder")));
    };
    kv.commit(kv.kv().txn().held(&lock).check("absent", 0)).await.keeps("L10")?;
    kv.call("unlock", lock.unlock()).await.keeps("L10")?;
    same!("L10", listed(other, "").await?, before, "what is stored once {key:?} is unlocked");
    Ok(())
}

async fn a_value_does_not_block_a_lock(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    for (key, data) in [("value", "1"), ("empty", "")] {
        other.set(key, data).await?;
        lockable(&cx, &kv, &other, key).await?;
    }
    Ok(())
}

async fn an_ephemeral_key_does_not_block_a_lock(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let key = other.ephemeral_key("leased", cx.long_ttl()).await?;
    lockable(&cx, &kv, &other, "leased").await?;
    other.call("renew the ephemeral key", key.renew()).await.keeps("L10")?;
    other.call("destroy the ephemeral key", key.destroy()).await.keeps("L10")
}

async fn data_below_does_not_block_a_lock(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    other.set("config/port", "1").await?;
    other.set("config/db/host", "2").await?;
    let _leased = other.ephemeral_key("config/leased", cx.long_ttl()).await?;
    lockable(&cx, &kv, &other, "config").await
}

async fn data_does_not_join_the_queue(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let lock = kv.lock("lock", cx.long_ttl()).await?;
    other.set("lock/before", "1").await.keeps("L10")?;
    let first = waiter(&cx, cx.client().await?, "lock");
    queued(std::slice::from_ref(&first)).await;
    other.set("lock/between", "1").await.keeps("L10")?;
    let _leased = other.ephemeral_key("lock/leased", cx.long_ttl()).await.keeps("L10")?;
    let second = waiter(&cx, cx.client().await?, "lock");
    queued(std::slice::from_ref(&second)).await;
    other.set("lock", "1").await.keeps("L10")?;
    kv.call("unlock", lock.unlock()).await.keeps("L10")?;
    served(&cx, first).await?;
    served(&cx, second).await
}

async fn data_that_looks_like_a_lock(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    // Keys with the names of etcd's own locks, but without a lease or with another lease than the name says, and keys
    // beside Consul's own entries.
    let keys = ["lock/694da207e3635927", "lock/1", "lock/.lock1", "lock/lock"];
    for key in keys {
        other.set(key, "1").await?;
    }
    let _leased = other.ephemeral_key("lock/694da207e3635928", cx.long_ttl()).await?;
    let shown: Vec<_> = listed(&kv, "lock/").await?.into_iter().map(|(key, _)| key).collect();
    let mut expected = [&keys[..], &["lock/694da207e3635928"]].concat();
    expected.sort_unstable();
    same!("L10", shown, expected, "keys that look like entries of a lock");
    lockable(&cx, &kv, &other, "lock").await
}

async fn locks_inside_one_another(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    for keys in [["a", "a/b", "a/b/c"], ["d/b/c", "d/b", "d"], ["e/694da207e3635927", "e", "e/1"]] {
        let mut held = Vec::new();
        for key in keys {
            let lock = kv.try_lock(key, cx.long_ttl()).await.keeps("L10")?;
            let Some(lock) = lock else {
                return Err(Broke::new("L10", format!("{key:?} is taken, although only {held:?} are held")));
            };
            held.push(lock);
        }
        for lock in held {
            check!(
                "L4",
                other.try_lock(lock.key(), cx.long_ttl()).await?.is_none(),
                "{:?} was given twice",
                lock.key()
            );
            kv.call(&format!("unlock {:?}", lock.key()), lock.unlock()).await.keeps("L10")?;
        }
    }
    Ok(())
}

async fn try_lock_of_a_held_lock_with_a_value(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let lock = kv.lock("lock", cx.long_ttl()).await?;
    other.set("lock", "1").await.keeps("L10")?;
    let second = other.try_lock("lock", cx.long_ttl()).await.keeps("L10")?;
    check!("L4", second.is_none(), "the lock was given a second time");
    kv.call("unlock", lock.unlock()).await.keeps("L10")
}

/// Deletes a tree with a held lock in it. The lock must be free afterwards.
async fn ended_by(
    cx: &Context,
    kv: &Client,
    other: &Client,
    deletion: impl Future<Output = kv_core::Result<()>>,
) -> Outcome {
    other.set("dir/sub/lock/data", "1").await?;
    let lock = kv.lock("dir/sub/lock", cx.long_ttl()).await?;
    let guarded = kv.kv().txn().held(&lock).set("guarded", "late");
    deletion.await.keeps("L10")?;
    is_lost(kv, lock, guarded).await?;
    let free = other.try_lock("dir/sub/lock", cx.long_ttl()).await.keeps("L10")?;
    let Some(lock) = free else { return Err(Broke::new("L10", "a lock whose tree was deleted is not free")) };
    other.call("unlock", lock.unlock()).await.keeps("L10")
}

async fn delete_tree_at_the_name(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    ended_by(&cx, &kv, &other, other.delete_tree("dir/sub/lock")).await
}

async fn delete_tree_above_the_name(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    for directory in ["dir/sub", "dir", ""] {
        ended_by(&cx, &kv, &other, other.delete_tree(directory)).await?;
    }
    Ok(())
}

async fn a_transaction_deletes_the_tree(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let transaction = other.kv().txn().check("absent", 0).delete_tree("dir").set("beside", "1");
    ended_by(&cx, &kv, &other, async { other.commit(transaction).await.map(drop) }).await
}

async fn waiters_go_on_after_delete_tree(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let lock = kv.lock("dir/lock", cx.long_ttl()).await?;
    let guarded = kv.kv().txn().held(&lock).set("guarded", "late");
    let mut waiters = Vec::new();
    for client in [cx.client().await?, cx.client().await?, other.clone()] {
        waiters.push(waiter(&cx, client, "dir/lock"));
    }
    queued(&waiters).await;
    other.delete_tree("dir").await.keeps("L10")?;
    for waiter in waiters {
        served(&cx, waiter).await?;
    }
    is_lost(&kv, lock, guarded).await
}

async fn delete_tree_elsewhere(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let lock = kv.lock("dir/lock", cx.long_ttl()).await?;
    for key in ["dir/lock/sub/data", "dir/lock1/data", "dir/loc/data"] {
        other.set(key, "1").await?;
    }
    for directory in ["dir/lock/sub", "dir/lock1", "dir/loc", "dir/lock/none"] {
        other.delete_tree(directory).await.keeps("L10")?;
        still_held(&cx, &kv, &other, &lock).await?;
    }
    same!("W4", other.keys("dir").await?, [""; 0], "what is left of the trees");
    Ok(())
}

async fn the_segment_of_locks_is_reserved(cx: Context) -> Outcome {
    let kv = cx.client().await?;
    for key in [".lock", "lock/.lock", "lock/.lock/data"] {
        refused!("K1", kv.get(key).await, Error::InvalidKey { .. });
        refused!("K1", kv.set(key, "1").await, Error::InvalidKey { .. });
        refused!("K1", kv.update(key, "1", 0).await, Error::InvalidKey { .. });
        refused!("K1", kv.delete(key).await, Error::InvalidKey { .. });
        refused!("K1", kv.remove(key, 1).await, Error::InvalidKey { .. });
        refused!("K1", kv.delete_tree(key).await, Error::InvalidKey { .. });
        refused!("K1", kv.keys(key).await, Error::InvalidKey { .. });
        refused!("K1", kv.commit(kv.kv().txn().set(key, "1")).await, Error::InvalidKey { .. });
        refused!("K1", kv.ephemeral_key(key, cx.long_ttl()).await, Error::InvalidKey { .. });
        refused!("K1", kv.lock(key, cx.long_ttl()).await, Error::InvalidKey { .. });
        refused!("K1", kv.try_lock(key, cx.long_ttl()).await, Error::InvalidKey { .. });
        refused!("K1", kv.scoped(key), Error::InvalidKey { .. });
    }
    Ok(())
}
