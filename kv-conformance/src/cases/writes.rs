//! Writes of one key and of trees: clauses [W1](kv_core::contract::CLAUSES#W1) to [W4](kv_core::contract::CLAUSES#W4)
//! and [W6](kv_core::contract::CLAUSES#W6).

use std::collections::BTreeSet;
use std::time::Duration;

use kv_core::{Error, Value};

use crate::case::cases;
use crate::context::Context;
use crate::outcome::{Keeps as _, Outcome, check, refused, same};

cases! { "writes":
    every_write_raises_the_index ["W1"] "Each write of a key, by any client and any verb, has a greater index than the one before."
    the_same_value_again_is_a_write ["W1", "W2"] "A write that repeats the value raises the index, so that updates at the old index fail."
    a_read_has_the_index_of_the_write ["W1"] "A read right after a write has the index that the write returned."
    indices_outlive_keys ["W1"] "A key created again has a greater index than before its deletion."
    update_creates ["W2"] "An update at index 0 creates a key, and is refused if it exists."
    update_compares ["W2"] "An update is applied at the current index only, and changes nothing otherwise."
    update_needs_the_key ["W2"] "An update at any index of a key that does not exist is refused, and creates nothing."
    update_knows_a_recreated_key ["W2"] "The index of a deleted key is not valid for a later key of the same name."
    update_at_impossible_indices ["W2", "W3"] "Indices that no store can have returned are refused like any other wrong index."
    remove_compares ["W3"] "A removal is applied only at the current index, and only once."
    remove_at_zero ["W3"] "A removal at index 0 succeeds if there is no key, and is refused if there is one."
    remove_needs_the_key ["W3"] "A removal at any other index of a key that does not exist is refused."
    delete_is_unconditional ["W3", "R1"] "Deleting needs no index, and the key need not exist."
    delete_tree_takes_the_whole_tree ["W4"] "Deleting a tree removes the key and everything below it at any depth, and no sibling."
    delete_tree_with_odd_names ["W4", "K1"] "Deleting a tree whose name has special characters removes exactly this tree."
    delete_tree_is_atomic ["W4", "R2"] "Every reader sees the whole tree or nothing of it."
    delete_tree_of_a_large_tree ["W4"] "A tree with more keys than a transaction may hold is deleted atomically."
    delete_tree_of_nothing ["W4"] "Deleting an absent tree is no error and changes nothing."
    cut_off_writes_report_their_fate ["W6", "A6"] "A write that timed out reports truly whether it may have been applied."
}

async fn every_write_raises_the_index(cx: Context) -> Outcome {
    let clients = [cx.client().await?, cx.client().await?];
    let mut last = 0;
    for round in 0..24 {
        let (kv, data) = (&clients[round % 2], round.to_string());
        let index = match round % 3 {
            0 => kv.set("a", data).await?,
            1 => kv.update("a", data, last).await.keeps("W1")?,
            _ => {
                let transaction = kv.kv().txn().set("a", data);
                let index = kv.commit(transaction).await?;
                check!("W1", index.is_some(), "a transaction that sets a key returned no index");
                index.unwrap_or_default()
            }
        };
        check!("W1", index > last, "a write after index {last} has index {index}");
        let elsewhere = clients[1 - round % 2].set("b", "").await?;
        check!("W1", elsewhere >= index, "a write of another key after index {index} has index {elsewhere}");
        last = index;
    }
    Ok(())
}

async fn the_same_value_again_is_a_write(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let mut last = kv.set("a", "same").await?;
    for round in 0..6 {
        let read = last;
        last = match round % 3 {
            0 => other.set("a", "same").await?,
            1 => other.update("a", "same", last).await.keeps("W1")?,
            _ => {
                let transaction = other.kv().txn().set("a", "same");
                other.commit(transaction).await?.unwrap_or_default()
            }
        };
        check!("W1", last > read, "writing the same value after index {read} has index {last}");
        same!("W1", kv.get("a").await?, Value::new("same", last), "the value written again");
        refused!("W2", kv.update("a", "same", read).await, Error::Conflict { key } if key == "a");
    }
    Ok(())
}

async fn a_read_has_the_index_of_the_write(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    for round in 0..10 {
        let (a, b) = (kv.set("a", round.to_string()).await?, kv.set("b", round.to_string()).await?);
        // Writes of other keys must not affect it.
        other.set("c", "").await?;
        other.delete("c").await?;
        same!("W1", kv.get("a").await?.index, a, "the index of \"a\"");
        same!("W1", other.get("b").await?.index, b, "the index of \"b\"");
        let listing = other.get_all("").await?;
        let listed: Vec<_> = listing.values.values().map(|value| value.index).collect();
        same!("W1", listed, [a, b], "the indices listed");
    }
    Ok(())
}

async fn indices_outlive_keys(cx: Context) -> Outcome {
    let kv = cx.client().await?;
    let mut last = 0;
    for round in 0..8 {
        let index = kv.set("a", round.to_string()).await?;
        check!("W1", index > last, "a key created again after index {last} has index {index}");
        last = index;
        if round % 2 == 0 { kv.delete("a").await? } else { kv.delete_tree("a").await? }
    }
    Ok(())
}

async fn update_creates(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let index = kv.update("a", "first", 0).await.keeps("W2")?;
    refused!("W2", other.update("a", "second", 0).await, Error::Conflict { key } if key == "a");
    refused!("W2", kv.update("a", "first", 0).await, Error::Conflict { .. });
    same!("W2", other.get("a").await?, Value::new("first", index), "the key after refused creations");
    kv.delete("a").await?;
    let again = other.update("a", "second", 0).await.keeps("W2")?;
    same!("W2", kv.get("a").await?, Value::new("second", again), "the key created again");
    Ok(())
}

async fn update_compares(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let first = kv.set("a", "1").await?;
    let second = other.update("a", "2", first).await.keeps("W2")?;
    check!("W2", second > first, "the update at index {first} has index {second}");
    for wrong in [first, second + 1, second - 1, 1, 0] {
        if wrong != second {
            refused!("W2", kv.update("a", "wrong", wrong).await, Error::Conflict { key } if key == "a");
        }
    }
    same!("W2", other.get("a").await?, Value::new("2", second), "the key after refused updates");
    // The index of another key is wrong, too.
    let elsewhere = kv.set("b", "1").await?;
    refused!("W2", kv.update("a", "wrong", elsewhere).await, Error::Conflict { .. });
    kv.update("a", "3", second).await.keeps("W2")?;
    Ok(())
}

async fn update_needs_the_key(cx: Context) -> Outcome {
    let kv = cx.client().await?;
    let index = kv.set("a", "1").await?;
    kv.set("absent/below", "1").await?;
    for wrong in [index, index + 1, 1] {
        refused!("W2", kv.update("absent", "x", wrong).await, Error::Conflict { key } if key == "absent");
    }
    refused!("W2", kv.get("absent").await, Error::NotFound { .. });
    Ok(())
}

async fn update_knows_a_recreated_key(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let old = kv.set("a", "same").await?;
    other.delete("a").await?;
    refused!("W2", kv.update("a", "x", old).await, Error::Conflict { .. });
    refused!("W2", kv.get("a").await, Error::NotFound { .. });
    let new = other.set("a", "same").await?;
    refused!("W2", kv.update("a", "x", old).await, Error::Conflict { .. });
    same!("W2", kv.get("a").await?, Value::new("same", new), "the key that took its place");
    Ok(())
}

async fn update_at_impossible_indices(cx: Context) -> Outcome {
    let kv = cx.client().await?;
    let index = kv.set("a", "1").await?;
    let signed = i64::MAX.unsigned_abs();
    for wrong in [u64::MAX, u64::MAX - 1, signed, signed + 1, signed + 2, u64::from(u32::MAX) + 1] {
        refused!("W2", kv.update("a", "x", wrong).await, Error::Conflict { key } if key == "a");
        refused!("W2", kv.update("absent", "x", wrong).await, Error::Conflict { key } if key == "absent");
        refused!("W3", kv.remove("a", wrong).await, Error::Conflict { key } if key == "a");
        refused!("W3", kv.remove("absent", wrong).await, Error::Conflict { key } if key == "absent");
    }
    same!("W2", kv.get("a").await?, Value::new("1", index), "the key after all of them");
    refused!("W2", kv.get("absent").await, Error::NotFound { .. });
    Ok(())
}

async fn remove_compares(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let first = kv.set("a", "1").await?;
    let second = kv.set("a", "1").await?;
    for wrong in [first, second + 1, 1] {
        if wrong != second {
            refused!("W3", other.remove("a", wrong).await, Error::Conflict { key } if key == "a");
        }
    }
    same!("W3", kv.get("a").await?, Value::new("1", second), "the key after refused removals");
    other.remove("a", second).await.keeps("W3")?;
    refused!("W3", kv.get("a").await, Error::NotFound { .. });
    refused!("W3", other.remove("a", second).await, Error::Conflict { key } if key == "a");
    let third = kv.set("a", "1").await?;
    refused!("W3", other.remove("a", second).await, Error::Conflict { .. });
    other.remove("a", third).await.keeps("W3")?;
    Ok(())
}

async fn remove_at_zero(cx: Context) -> Outcome {
    let kv = cx.client().await?;
    kv.remove("a", 0).await.keeps("W3")?;
    let index = kv.set("a", "1").await?;
    refused!("W3", kv.remove("a", 0).await, Error::Conflict { key } if key == "a");
    same!("W3", kv.get("a").await.keeps("W3")?.index, index, "the index of a key that was not removed");
    kv.delete("a").await?;
    kv.remove("a", 0).await.keeps("W3")?;
    // A key below it does not make it exist.
    kv.set("a/b", "1").await?;
    kv.remove("a", 0).await.keeps("W3")?;
    kv.get("a/b").await.keeps("W3")?;
    Ok(())
}

async fn remove_needs_the_key(cx: Context) -> Outcome {
    let kv = cx.client().await?;
    let index = kv.set("other", "1").await?;
    for wrong in [1, index, index + 1] {
        refused!("W3", kv.remove("absent", wrong).await, Error::Conflict { key } if key == "absent");
    }
    Ok(())
}

async fn delete_is_unconditional(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    kv.delete("a").await.keeps("W3")?;
    kv.set("a", "1").await?;
    kv.set("a/b", "1").await?;
    kv.set("ab", "1").await?;
    other.delete("a").await.keeps("W3")?;
    refused!("R1", kv.get("a").await, Error::NotFound { .. });
    kv.get("a/b").await.keeps("W3")?;
    kv.get("ab").await.keeps("W3")?;
    other.delete("a").await.keeps("W3")?;
    Ok(())
}

async fn delete_tree_takes_the_whole_tree(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    for (directory, slash) in [("d", false), ("d", true), ("d/e", false), ("", false)] {
        let keys = ["d", "d/a", "d/e", "d/e/f/g", "d/e2", "d/", "d-x", "d.x", "d0", "dx", "dx/a", "c", "e/d/a"];
        let keys = keys.map(|key| key.trim_end_matches('/'));
        for key in keys {
            kv.set(key, "1").await?;
        }
        let below = format!("{directory}/");
        let taken = |key: &str| directory.is_empty() || key == directory || key.starts_with(&below);
        let expected: BTreeSet<_> = keys.into_iter().filter(|key| !taken(key)).map(str::to_owned).collect();
        other.delete_tree(if slash { &below } else { directory }).await.keeps("W4")?;
        let left: BTreeSet<_> = kv.get_all("").await?.values.into_keys().collect();
        same!("W4", left, expected, "what is left after deleting {directory:?}");
    }
    Ok(())
}

async fn delete_tree_with_odd_names(cx: Context) -> Outcome {
    let kv = cx.client().await?;
    for name in ["%", "a b", "a+b", "*", "é", "a?b", "#", "\u{10ffff}"] {
        let (below, sibling) = (format!("{name}/x"), format!("{name}x"));
        for key in [name, &below, &sibling, "a", "b", "ab"] {
            kv.set(key, "1").await?;
        }
        kv.delete_tree(name).await.keeps("W4")?;
        let mut expected = vec!["a", "ab", "b", &sibling];
        expected.sort_unstable();
        let left: Vec<_> = kv.get_all("").await?.values.into_keys().collect();
        same!("W4", left, expected, "what is left after deleting {name:?}");
        kv.delete(&sibling).await.keeps("K1")?;
    }
    Ok(())
}

async fn delete_tree_is_atomic(cx: Context) -> Outcome {
    const KEYS: usize = 20;
    let (writer, reader) = (cx.client().await?, cx.client().await?);
    let writing = async {
        loop {
            let mut transaction = writer.kv().txn().set("t", "1");
            for number in 1..KEYS {
                transaction = transaction.set(&format!("t/{number}"), "1");
            }
            writer.commit(transaction).await?;
            // A store in memory may answer without letting the reader run.
            tokio::task::yield_now().await;
            writer.delete_tree("t").await?;
            tokio::task::yield_now().await;
        }
    };
    let reading = async {
        for _ in 0..50 {
            let seen = reader.get_all("t").await?.values.len();
            check!("W4", seen == 0 || seen == KEYS, "a listing has {seen} of the tree's {KEYS} keys");
            tokio::task::yield_now().await;
        }
        Ok(())
    };
    tokio::select! {
        written = writing => written,
        read = reading => read,
    }
}

async fn delete_tree_of_a_large_tree(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let keys: Vec<String> = (0..600).map(|number| format!("large/{}/{number}", number % 7)).collect();
    for keys in keys.chunks(cx.limits().txn_ops) {
        let transaction = keys.iter().fold(kv.kv().txn(), |transaction, key| transaction.set(key, ""));
        kv.call("write a part of the tree", transaction.commit()).await?;
    }
    kv.set("larger", "1").await?;
    same!("W4", other.get_all("large/").await?.values.len(), keys.len(), "the size of the tree");
    other.delete_tree("large").await.keeps("W4")?;
    same!("W4", kv.get_all("large").await?.values.into_keys().collect::<Vec<_>>(), ["larger"], "what is left");
    Ok(())
}

async fn delete_tree_of_nothing(cx: Context) -> Outcome {
    let kv = cx.client().await?;
    kv.delete_tree("").await.keeps("W4")?;
    let index = kv.set("dx", "1").await?;
    for directory in ["d", "d/", "dx/a", "x"] {
        kv.delete_tree(directory).await.keeps("W4")?;
    }
    same!("W4", kv.get("dx").await.keeps("W4")?, Value::new("1", index), "a key beside all of them");
    Ok(())
}

async fn cut_off_writes_report_their_fate(cx: Context) -> Outcome {
    let kv = cx.client().await?;
    // The timeouts range from too short for any answer to long enough for most. In between, writes are cut off in
    // flight.
    for round in 0..40_u32 {
        let (key, limit) = (format!("{round}"), Duration::from_micros(1) * 2_u32.pow(round / 3));
        let hurried = kv.kv().clone().with_timeout(limit);
        let written = kv.call(&format!("set {key:?} within {limit:?}"), hurried.set(&key, "1")).await;
        // A new connection, which the cut-off calls do not delay.
        let found = match &written {
            Ok(index) => Some(kv.get(&key).await.is_ok_and(|value| value.index == *index)),
            Err(Error::Unavailable { .. }) => Some(kv.get(&key).await.is_err_and(|error| error.is_key_not_found())),
            Err(Error::Indeterminate { .. }) => None,
            Err(other) => return Err(crate::outcome::Broke::new("W6", format!("a write that was cut off: {other}"))),
        };
        check!("W6", found != Some(false), "the fate of the write is not the one that was reported: {written:?}");
        match kv.call("get in a hurry", hurried.get("absent")).await {
            Err(Error::NotFound { .. } | Error::Unavailable { .. }) => {}
            other => check!("A6", false, "a read that was cut off: {other:?}"),
        }
    }
    Ok(())
}
