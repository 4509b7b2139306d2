//! Roots: clause [K4](kv_core::contract::CLAUSES#K4).

use std::collections::BTreeSet;

use kv_core::{Error, EventType};

use crate::case::cases;
use crate::context::Context;
use crate::outcome::{Keeps as _, Outcome, check, refused, same};

cases! { "roots":
    keys_are_relative ["K4"] "Below a root, results and events name keys relative to it, and the whole store has them below it."
    errors_are_relative ["K4"] "Below a root, errors name keys relative to it."
    nothing_outside_is_seen ["K4"] "Below a root, keys outside it are neither read, listed nor watched, and no path leads out."
    nothing_outside_is_deleted ["K4", "W4"] "Deleting everything below a root leaves the root's own key and its siblings."
    roots_nest ["K4"] "A root below a root is one root."
    locks_keep_to_their_root ["K4", "L4"] "Locks and ephemeral keys of one name below different roots are different."
}

async fn keys_are_relative(cx: Context) -> Outcome {
    let (whole, other) = (cx.client().await?, cx.client().await?);
    let app = other.scoped("app")?;
    let mut events = app.watch("a", 0).await?;
    let index = app.set("a/b", "1").await?;
    same!("K4", whole.get("app/a/b").await.keeps("K4")?.index, index, "the index of the key in the whole store");
    same!("K4", app.get("a/b").await.keeps("K4")?.index, index, "the index of the key below the root");
    let listing = app.get_all("a").await?.values;
    same!("K4", listing.into_keys().collect::<Vec<_>>(), ["a/b"], "the keys listed");
    same!("K4", app.keys("").await?, ["a/"], "the children of the root");
    same!("K4", app.keys("a").await?, ["a/b"], "the children of \"a\"");
    same!("K4", events.next("E1").await?.key, "a/b", "the key of the event");
    let (listing, mut events) = app.observe("").await?;
    same!("K4", listing.values.into_keys().collect::<Vec<_>>(), ["a/b"], "the keys observed");
    let created = whole.set("app/c", "2").await?;
    let event = events.next("E1").await?;
    same!("K4", (&*event.key, event.index), ("c", created), "the event of a write from outside");
    let lease = app.ephemeral_key("leased", cx.long_ttl()).await?;
    same!("K4", lease.key(), "leased", "the key of the ephemeral key");
    check!("K4", whole.get("app/leased").await.is_ok(), "the ephemeral key is not below the root");
    app.call("destroy the ephemeral key", lease.destroy()).await?;
    Ok(())
}

async fn errors_are_relative(cx: Context) -> Outcome {
    let kv = cx.client().await?;
    let app = kv.scoped("app")?;
    refused!("K4", app.get("a").await, Error::NotFound { key } if key == "a");
    app.set("a", "1").await?;
    refused!("K4", app.update("a", "2", 0).await, Error::Conflict { key, .. } if key == "a");
    refused!("K4", app.update("b", "2", 7).await, Error::Conflict { key, .. } if key == "b");
    refused!("K4", app.remove("a", 0).await, Error::Conflict { key, .. } if key == "a");
    refused!("K4", app.ephemeral_key("a", cx.long_ttl()).await, Error::Conflict { key, .. } if key == "a");
    let transaction = app.kv().txn().check("a", 0).set("b", "2");
    refused!("K4", app.commit(transaction).await, Error::Conflict { key, .. } if key == "a");
    let lock = app.lock("lock", cx.long_ttl()).await?;
    let guarded = app.kv().txn().held(&lock).set("b", "2");
    app.call("unlock", lock.unlock()).await?;
    refused!("K4", app.commit(guarded).await, Error::Lost { key } if key == "lock");
    let member = app.ephemeral_key("members/a", cx.long_ttl()).await?;
    app.delete("members/a").await?;
    refused!("K4", member.set("late").await, Error::Lost { key } if key == "members/a");
    refused!("K4", member.renew().await, Error::Lost { key } if key == "members/a");
    refused!("K4", member.destroy().await, Error::Lost { key } if key == "members/a");
    let overlapping = app.kv().txn().set("x/a", "").delete_tree("x");
    refused!("K4", app.commit(overlapping).await, Error::OverlappingWrites { key } if !key.contains("app"));
    refused!("K4", app.set("in//valid", "").await, Error::InvalidKey { key, .. } if key == "in//valid");
    let apart = app.scoped("closed")?;
    apart.kv().close().await?;
    refused!("K4", apart.kv().lock("lock", cx.long_ttl()).await, Error::Closed { key } if key == "lock");
    Ok(())
}

async fn nothing_outside_is_seen(cx: Context) -> Outcome {
    let whole = cx.client().await?;
    let app = whole.scoped("app/")?;
    let mut events = app.watch("", 0).await?;
    for key in ["app", "apple", "app0", "app.", "other/app/x", "a"] {
        whole.set(key, "outside").await?;
    }
    check!("K4", app.get_all("").await?.values.is_empty(), "keys outside the root are listed");
    check!("K4", app.keys("").await?.is_empty(), "keys outside the root are shown");
    for key in ["a", "pple", "app", "apple"] {
        refused!("K4", app.get(key).await, Error::NotFound { .. });
    }
    for key in ["../a", "..", "a/../../apple", "/apple", "./../apple"] {
        refused!("K4", app.get(key).await, Error::InvalidKey { .. });
        refused!("K4", app.set(key, "x").await, Error::InvalidKey { .. });
        refused!("K4", app.delete_tree(key).await, Error::InvalidKey { .. });
    }
    let inside = app.set("inside", "1").await?;
    let event = events.next("E1").await?;
    same!("K4", (&*event.key, event.index), ("inside", inside), "the first event below the root");
    same!("K4", whole.get("apple").await?.data, "outside", "the value of a key outside");
    Ok(())
}

async fn nothing_outside_is_deleted(cx: Context) -> Outcome {
    let whole = cx.client().await?;
    let app = whole.scoped("app")?;
    let outside = ["app", "apple", "app0/x", "b", "a"];
    for key in outside {
        whole.set(key, "outside").await?;
    }
    for key in ["a", "b/c", "apple"] {
        app.set(key, "inside").await?;
    }
    app.delete_tree("").await.keeps("W4")?;
    let left: BTreeSet<_> = whole.get_all("").await?.values.into_keys().collect();
    same!("K4", left, BTreeSet::from(outside.map(str::to_owned)), "what is left");
    let transaction = app.kv().txn().delete_tree("");
    app.commit(transaction).await.keeps("W4")?;
    same!("K4", whole.get_all("").await?.values.len(), outside.len(), "the number of keys left");
    Ok(())
}

async fn roots_nest(cx: Context) -> Outcome {
    let whole = cx.client().await?;
    let nested = whole.scoped("a b")?.scoped("c/d")?;
    same!("K4", nested.kv().root(), format!("{}/a b/c/d/", cx.directory()), "the root");
    let mut events = nested.watch("", 0).await?;
    let index = nested.set("e", "1").await?;
    same!("K4", whole.get("a b/c/d/e").await.keeps("K4")?.index, index, "the index in the whole store");
    events.expect(EventType::Create, "e", "1", index).await?;
    for directory in ["..", "", "/", "a//b", "a/../.."] {
        if !directory.is_empty() {
            check!("K4", whole.kv().scoped(directory).is_err(), "{directory:?} is taken for a root");
        }
    }
    Ok(())
}

async fn locks_keep_to_their_root(cx: Context) -> Outcome {
    let (first, second) = (cx.client().await?.scoped("1")?, cx.client().await?.scoped("2")?);
    let held = first.lock("lock", cx.long_ttl()).await?;
    same!("K4", held.key(), "lock", "the key of the lock");
    let free = second.try_lock("lock", cx.long_ttl()).await?;
    check!("K4", free.is_some(), "the lock below another root is taken");
    let again = cx.client().await?.scoped("1")?.try_lock("lock", cx.long_ttl()).await?;
    check!("L4", again.is_none(), "the lock was given a second time");
    let lease = first.ephemeral_key("leased", cx.long_ttl()).await?;
    let other = second.ephemeral_key("leased", cx.long_ttl()).await.keeps("K4")?;
    first.call("destroy 1/leased", lease.destroy()).await?;
    second.get("leased").await.keeps("K4")?;
    second.call("destroy 2/leased", other.destroy()).await?;
    Ok(())
}
