//! Reads: clauses [R1](kv_core::contract::CLAUSES#R1) to [R3](kv_core::contract::CLAUSES#R3).

use std::collections::BTreeSet;

use kv_core::{Error, Value};

use crate::case::cases;
use crate::client::Client;
use crate::context::Context;
use crate::outcome::{Keeps as _, Outcome, check, refused, same};

cases! { "reads":
    other_clients_see_writes ["R1"] "After a write returns, every kind of read of another client sees it."
    other_clients_see_deletions ["R1"] "After a deletion returns, no kind of read of another client sees the key."
    absent_keys ["R1", "A5"] "Reading an absent key is an error that names it, and deleting it is no error."
    listings_hold_every_value ["R2", "W1"] "A listing has every key with its value and the index of its write, in order."
    listings_are_one_state ["R2"] "A listing never mixes two states of keys that change together."
    large_listings_are_one_state ["R2"] "A listing of many keys is complete and never mixes states, while its ends change together."
    a_listing_is_a_point_in_history ["R2", "E1"] "A watch after the index of a listing delivers later events only."
    a_listing_of_nothing ["R2"] "A prefix without keys lists nothing, at an index to watch from."
    keys_lists_children ["R3"] "A directory lists its keys and subdirectories as full paths, and nothing deeper."
    keys_lists_each_child_once ["R3"] "A subdirectory is listed once, however many keys it has."
    keys_ignores_a_slash_at_the_end ["R3"] "A directory with and without a slash at its end is the same."
    keys_of_an_absent_directory ["R3"] "A path that is no directory, such as a plain key, has no children."
    keys_next_to_a_slash ["R3"] "Names with characters that sort next to the slash are distinguished and sorted."
    no_directory_without_keys ["R3"] "A directory is gone with its last key."
}

async fn other_clients_see_writes(cx: Context) -> Outcome {
    let clients = [cx.client().await?, cx.client().await?, cx.client().await?];
    clients[0].set("a", "").await?;
    for round in 0..30 {
        let (writer, reader) = (&clients[round % 3], &clients[(round + 1) % 3]);
        let data = round.to_string();
        let index = match round % 4 {
            0 => {
                let index = reader.get("a").await?.index;
                writer.update("a", data.clone(), index).await.keeps("R1")?
            }
            1 => {
                let transaction = writer.kv().txn().set("a", data.clone()).set("b", data.clone());
                writer.commit(transaction).await?.unwrap_or_default()
            }
            _ => writer.set("a", data.clone()).await?,
        };
        let expected = Value::new(data, index);
        same!("R1", reader.get("a").await.keeps("R1")?, expected, "what another client gets");
        let listing = clients[(round + 2) % 3].get_all("a").await?;
        same!("R1", listing.values.get("a"), Some(&expected), "what a third client lists");
        let fresh = format!("fresh-{round}");
        writer.set(&fresh, "").await?;
        check!("R1", reader.keys("").await?.contains(&fresh), "{fresh} is not among the keys that another client sees");
    }
    Ok(())
}

async fn other_clients_see_deletions(cx: Context) -> Outcome {
    let (writer, reader) = (cx.client().await?, cx.client().await?);
    for round in 0..10 {
        let index = writer.set("d/a", "1").await?;
        reader.get("d/a").await.keeps("R1")?;
        match round % 3 {
            0 => writer.delete("d/a").await?,
            1 => writer.remove("d/a", index).await?,
            _ => writer.delete_tree("d").await?,
        }
        refused!("R1", reader.get("d/a").await, Error::NotFound { .. });
        check!("R1", reader.get_all("d").await?.values.is_empty(), "another client lists what was deleted");
        check!("R1", reader.keys("d").await?.is_empty(), "another client sees what was deleted");
    }
    Ok(())
}

async fn absent_keys(cx: Context) -> Outcome {
    let kv = cx.client().await?;
    let missing = kv.get("never/there").await;
    refused!("R1", missing, Error::NotFound { key } if key == "never/there");
    let predicate =
        missing.is_err_and(|error| error.is_key_not_found() && !error.is_conflict() && !error.is_retryable());
    check!("A5", predicate, "the predicates of a missing key are wrong");
    kv.delete("never/there").await.keeps("R1")?;
    kv.delete_tree("never").await.keeps("R1")?;
    Ok(())
}

async fn listings_hold_every_value(cx: Context) -> Outcome {
    let (writer, reader) = (cx.client().await?, cx.client().await?);
    let mut expected = std::collections::BTreeMap::new();
    for number in [7, 3, 9, 1, 5, 3, 7] {
        let (key, data) = (format!("n/{number}"), format!("{number} of {}", expected.len()));
        let index = writer.set(&key, data.clone()).await?;
        expected.insert(key, Value::new(data, index));
    }
    let listing = reader.get_all("n/").await?;
    same!("R2", listing.values, expected, "the listing");
    let newest = expected.values().map(|value| value.index).max().unwrap_or_default();
    check!("R2", listing.index >= newest, "the listing's index {} is older than {newest} in it", listing.index);
    for (key, value) in &expected {
        same!("W1", reader.get(key).await?, *value, "what get returns for {key}");
    }
    Ok(())
}

/// Sets every key to the same value, in one transaction.
async fn set_together(client: &Client, keys: &[String], value: u32) -> Outcome {
    let mut transaction = client.kv().txn();
    for key in keys {
        transaction = transaction.set(key, value.to_string());
    }
    client.call(&format!("set {} keys to {value}", keys.len()), transaction.commit()).await?;
    Ok(())
}

/// Sets the keys together, to one value after the other, for as long as it is polled.
async fn keep_setting(client: &Client, keys: &[String]) -> Outcome {
    for value in 1.. {
        set_together(client, keys, value).await?;
        // A store in memory may answer without letting the reader run.
        tokio::task::yield_now().await;
    }
    Ok(())
}

async fn listings_are_one_state(cx: Context) -> Outcome {
    let (writer, reader) = (cx.client().await?, cx.client().await?);
    let keys: Vec<String> = (0..10).map(|number| format!("k/{number}")).collect();
    set_together(&writer, &keys, 0).await?;
    let reading = async {
        for _ in 0..40 {
            let listing = reader.get_all("k/").await?;
            let values: BTreeSet<_> = listing.values.values().map(|value| &value.data).collect();
            let indices: BTreeSet<_> = listing.values.values().map(|value| value.index).collect();
            same!("R2", listing.values.len(), keys.len(), "the number of keys in a listing");
            check!("R2", values.len() == 1 && indices.len() == 1, "one listing has values {values:?} at {indices:?}");
            tokio::task::yield_now().await;
        }
        Ok(())
    };
    tokio::select! {
        written = keep_setting(&writer, &keys) => written,
        read = reading => read,
    }
}

async fn large_listings_are_one_state(cx: Context) -> Outcome {
    const KEYS: usize = 2500;
    let (writer, reader) = (cx.client().await?, cx.client().await?);
    let keys: Vec<String> = (0..KEYS).map(|number| format!("many/{number:05}")).collect();
    for keys in keys.chunks(cx.limits().txn_ops.min(KEYS)) {
        set_together(&writer, keys, 0).await?;
    }
    // Keys at both ends and in the middle, so that a listing that is read in pieces has them in different pieces.
    let ends = [keys[0].clone(), keys[KEYS / 2].clone(), keys[KEYS - 1].clone()];
    set_together(&writer, &ends, 0).await?;
    let reading = async {
        for _ in 0..12 {
            let values = reader.get_all("many/").await?.values;
            same!("R2", values.len(), KEYS, "the number of keys in a listing");
            let seen: Vec<_> = ends.iter().filter_map(|key| values.get(key)).collect();
            check!("R2", seen.windows(2).all(|pair| pair[0] == pair[1]), "one listing has {seen:?}");
            tokio::task::yield_now().await;
        }
        Ok(())
    };
    tokio::select! {
        written = keep_setting(&writer, &ends) => written,
        read = reading => read,
    }
}

async fn a_listing_is_a_point_in_history(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    kv.set("a", "old").await?;
    kv.set("b", "old").await?;
    let listing = other.get_all("").await?;
    let mut events = other.watch("", listing.index).await.keeps("R2")?;
    let index = kv.set("a", "new").await?;
    let event = events.next("E1").await?;
    check!("R2", event.index > listing.index, "a watch after {} saw {event:?}", listing.index);
    same!("E1", (&*event.key, event.index), ("a", index), "the first event after the listing");

    // This is written before the watch begins. The watch must deliver it, or report that it cannot.
    let listing = other.get_all("").await?;
    let index = kv.set("b", "new").await?;
    match other.watch("", listing.index).await {
        Ok(mut events) => match events.item(cx.patience()).await {
            Some(Some(Ok(event))) => {
                same!("R2", (&*event.key, event.index), ("b", index), "the first event after the second listing");
            }
            Some(Some(Err(Error::Compacted { .. }))) => {}
            other => check!("E1", false, "after a listing the watch gave {other:?}"),
        },
        Err(Error::Compacted { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

async fn a_listing_of_nothing(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let listing = kv.get_all("nothing/").await.keeps("R2")?;
    check!("R2", listing.values.is_empty(), "a prefix without keys lists {} keys", listing.values.len());
    check!("R2", listing.index > 0, "index 0 cannot be watched from");
    let mut events = kv.watch("nothing/", listing.index).await.keeps("R2")?;
    let index = other.set("nothing/a", "1").await?;
    let event = events.next("R2").await?;
    same!("R2", (&*event.key, event.index), ("nothing/a", index), "the first event after an empty listing");
    Ok(())
}

async fn write_all(kv: &Client, keys: &[&str]) -> Outcome {
    for key in keys {
        kv.set(key, "").await?;
    }
    Ok(())
}

async fn keys_lists_children(cx: Context) -> Outcome {
    let kv = cx.client().await?;
    write_all(&kv, &["a", "d/a", "d/b/x", "d/b/y/z", "d/c", "d/c/x", "d", "dd/e"]).await?;
    same!("R3", kv.keys("").await?, ["a", "d", "d/", "dd/"], "the root's children");
    same!("R3", kv.keys("d").await?, ["d/a", "d/b/", "d/c", "d/c/"], "the children of \"d\"");
    same!("R3", kv.keys("d/b").await?, ["d/b/x", "d/b/y/"], "the children of \"d/b\"");
    same!("R3", kv.keys("d/b/y").await?, ["d/b/y/z"], "the children of \"d/b/y\"");
    same!("R3", kv.keys("dd").await?, ["dd/e"], "the children of \"dd\"");
    Ok(())
}

async fn keys_lists_each_child_once(cx: Context) -> Outcome {
    let kv = cx.client().await?;
    for number in 0..60 {
        kv.set(&format!("d/{}/{number}/x", number % 3), "").await?;
    }
    same!("R3", kv.keys("d").await?, ["d/0/", "d/1/", "d/2/"], "the children of \"d\"");
    same!("R3", kv.keys("d/1").await?.len(), 20, "the number of children of \"d/1\"");
    Ok(())
}

async fn keys_ignores_a_slash_at_the_end(cx: Context) -> Outcome {
    let kv = cx.client().await?;
    write_all(&kv, &["d", "d/a", "d/b/c", "dx"]).await?;
    for directory in ["d", "d/b", "none"] {
        let (bare, slash) = (kv.keys(directory).await?, kv.keys(&format!("{directory}/")).await.keeps("R3")?);
        same!("R3", slash, bare, "the children of {directory:?} with a slash");
    }
    same!("R3", kv.keys("d/").await?, ["d/a", "d/b/"], "the children of \"d/\"");
    Ok(())
}

async fn keys_of_an_absent_directory(cx: Context) -> Outcome {
    let kv = cx.client().await?;
    same!("R3", kv.keys("").await.keeps("R3")?.len(), 0, "the number of keys in an empty root");
    write_all(&kv, &["plain", "plainer/x"]).await?;
    for directory in ["none", "none/of/it", "plain", "plain/x", "plainer/x"] {
        same!("R3", kv.keys(directory).await.keeps("R3")?.len(), 0, "the number of children of {directory:?}");
    }
    Ok(())
}

async fn keys_next_to_a_slash(cx: Context) -> Outcome {
    let kv = cx.client().await?;
    // `.` sorts just before `/`, and `0` just after it.
    let keys = ["d", "d.", "d/", "d/x", "d/x.", "d/x/", "d/x0", "d0", "d-", "d/é", "d/~", "d/ "];
    for key in keys {
        kv.set(&format!("{key}leaf"), "").await?;
        if !key.ends_with('/') {
            kv.set(key, "").await?;
        }
    }
    let mut expected =
        ["d/leaf", "d/x", "d/x/", "d/x.", "d/x.leaf", "d/x0", "d/x0leaf", "d/xleaf", "d/é", "d/éleaf"].to_vec();
    expected.extend(["d/~", "d/~leaf", "d/ ", "d/ leaf"]);
    expected.sort_unstable();
    same!("R3", kv.keys("d").await?, expected, "the children of \"d\"");
    let mut expected = vec!["d", "dleaf", "d.", "d.leaf", "d/", "d0", "d0leaf", "d-", "d-leaf"];
    expected.sort_unstable();
    same!("R3", kv.keys("").await?, expected, "the root's children");
    Ok(())
}

async fn no_directory_without_keys(cx: Context) -> Outcome {
    let kv = cx.client().await?;
    write_all(&kv, &["d/a/b", "d/c"]).await?;
    same!("R3", kv.keys("d").await?, ["d/a/", "d/c"], "the children of \"d\"");
    kv.delete("d/a/b").await?;
    same!("R3", kv.keys("d").await?, ["d/c"], "the children of \"d\" after the last key below \"d/a\" was deleted");
    kv.delete("d/c").await?;
    same!("R3", kv.keys("").await?.len(), 0, "the number of the root's children after the last key was deleted");
    Ok(())
}
