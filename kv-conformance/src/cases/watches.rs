//! Watches: clauses [E1](kv_core::contract::CLAUSES#E1) to [E3](kv_core::contract::CLAUSES#E3) and
//! [E5](kv_core::contract::CLAUSES#E5), as far as one client at a time can show them.
//!
//! Longer than most files: it has one short function for each case of one subject.

use std::collections::{BTreeMap, BTreeSet};

use kv_core::{Error, Event, EventType, Value};

use crate::case::cases;
use crate::client::{Client, Events, is_deletion};
use crate::context::Context;
use crate::outcome::{Keeps as _, Outcome, check, same};

cases! { "watches":
    nothing_is_missed_after_it_returned ["E1"] "A watch sees every write made right after it was opened."
    only_later_events_after_zero ["E1"] "A watch after 0 sees no earlier change."
    every_event_after_an_index ["E1"] needs [EveryChange] "A watch after an index sees each change with a greater index, and no earlier change."
    no_silent_gap_after_an_index ["E1", "E3"] "A watch after an old index delivers the final state of every key, or reports that it cannot."
    after_the_latest_index ["E1"] "A watch after the newest index waits for the next change."
    types_are_right ["E2"] "Creation, update, deletion and another creation each arrive with the right type."
    the_same_value_again_is_an_event ["E2", "W1"] "A write that repeats the value is an update with its own index."
    a_deletion_has_an_index ["E2"] "A deletion event has no data, and a greater index than the deleted value."
    events_have_the_index_of_the_write ["E2", "W1"] "The index of an event is the index that the write returned, for every verb."
    a_transaction_comes_together ["E2", "W5"] "The events of one transaction follow one another, at one index."
    a_tree_goes_together ["E2", "W4"] "The deletions of one tree follow one another, each key once."
    a_deletion_of_nothing_is_no_event ["E2"] "Deleting an absent key makes no event."
    every_change_is_delivered ["E3"] needs [EveryChange] "Rapid changes are all delivered, in order."
    the_last_state_is_delivered ["E3"] "The last state of a rapidly changing key is delivered."
    a_recreated_key_was_deleted ["E3", "E2"] "A key deleted and created again arrives as a deletion, then a creation."
    a_short_life_leaves_no_key ["E3", "E2"] "The events of keys that are created and deleted at once end with their deletion."
    watches_are_independent ["E1"] "Each of many watches sees all events, and ending some does not affect the others."
    a_slow_consumer_is_no_burden ["E5", "E1"] "A watch that is not read delays neither writers nor other watches, and has no gap that it does not report."
    a_watch_needs_no_other_call ["E1"] "Events arrive at a client that makes no call but the watch."
}

async fn nothing_is_missed_after_it_returned(cx: Context) -> Outcome {
    let (writer, watcher) = (cx.client().await?, cx.client().await?);
    for round in 0..25 {
        let mut events = watcher.watch("a", 0).await?;
        let index = writer.set("a", round.to_string()).await?;
        let event = events.next("E1").await?;
        same!("E1", (event.index, &event.data[..]), (index, round.to_string().as_bytes()), "the first event");
    }
    Ok(())
}

async fn only_later_events_after_zero(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    kv.set("a", "old").await?;
    kv.set("b", "old").await?;
    kv.set("gone", "old").await?;
    kv.delete("gone").await?;
    let mut events = other.watch("", 0).await?;
    let index = kv.set("b", "new").await?;
    let event = events.next("E1").await?;
    same!("E1", (&*event.key, event.index), ("b", index), "the first event");
    Ok(())
}

async fn every_event_after_an_index(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let event = |event_type, key: &str, data: &str, index| Event {
        key: key.into(),
        event_type,
        data: data.to_owned().into(),
        index,
    };
    let mut expected = Vec::new();
    for number in 0..6 {
        let (key, data) = (format!("k{}", number % 2), number.to_string());
        let index = kv.set(&key, data.clone()).await?;
        let event_type = if number < 2 { EventType::Create } else { EventType::Update };
        expected.push(event(event_type, &key, &data, index));
    }
    kv.set("elsewhere", "").await?;
    kv.delete("k0").await?;
    let last = kv.set("k1", "last").await?;
    for (place, after) in expected.iter().map(|event| event.index).enumerate() {
        let mut events = other.watch("k", after).await.keeps("E1")?;
        for expected in &expected[place + 1..] {
            same!("E1", events.next("E1").await?, *expected, "the next event after index {after}");
        }
        is_deletion(&events.next("E1").await?, "k0", after)?;
        same!("E1", events.next("E1").await?, event(EventType::Update, "k1", "last", last), "the last event");
    }
    Ok(())
}

/// Reads events until `key` has the data `last`. Returns `None` if the watch reports that its history is gone.
async fn replay(cx: &Context, events: &mut Events, key: &str, last: &str) -> Outcome<Option<Vec<Event>>> {
    let mut seen = Vec::new();
    loop {
        match events.item(cx.patience()).await {
            Some(Some(Ok(event))) => {
                let is_last = event.key == key && event.data == last.as_bytes();
                seen.push(event);
                if is_last {
                    return Ok(Some(seen));
                }
            }
            Some(Some(Err(Error::Compacted { .. }))) => return Ok(None),
            other => check!("E1", false, "before {last:?} of {key:?} was seen, the watch gave {other:?}"),
        }
    }
}

async fn no_silent_gap_after_an_index(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let first = kv.set("a", "1").await?;
    for key in ["b", "a", "c", "b"] {
        kv.set(key, "2").await?;
    }
    kv.delete("c").await?;
    kv.set("last", "last").await?;
    let stored = other.get_all("").await?.values;
    for after in [1, first] {
        let mut events = match other.watch("", after).await {
            Ok(events) => events,
            Err(Error::Compacted { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        let Some(seen) = replay(&cx, &mut events, "last", "last").await? else { continue };
        let mut shown = BTreeMap::from([("a".to_owned(), Value::new("1", first))]);
        for event in &seen {
            check!("E1", event.index > after, "a watch after {after} saw {event:?}");
            match event.event_type {
                EventType::Delete => shown.remove(&event.key),
                _ => shown.insert(event.key.clone(), Value::new(event.data.clone(), event.index)),
            };
        }
        same!("E1", shown, stored, "what the events after {after} add up to");
    }
    Ok(())
}

async fn after_the_latest_index(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    kv.set("b", "1").await?;
    let index = kv.set("a", "1").await?;
    let mut events = other.watch("", index).await.keeps("E1")?;
    let next = kv.set("a", "2").await?;
    events.expect(EventType::Update, "a", "2", next).await?;
    Ok(())
}

async fn types_are_right(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    kv.set("old", "1").await?;
    let mut events = other.watch("", 0).await?;
    let index = kv.set("old", "2").await?;
    events.expect(EventType::Update, "old", "2", index).await?;
    for round in ["first", "second"] {
        let index = kv.set("a", round).await?;
        events.expect(EventType::Create, "a", round, index).await?;
        let index = kv.update("a", "updated", index).await?;
        events.expect(EventType::Update, "a", "updated", index).await?;
        kv.remove("a", index).await?;
        let deleted = events.expect_deletion("a", index).await?;
        let index = kv.update("a", "created", 0).await?;
        check!("E2", index >= deleted, "a deletion has index {deleted}, and the creation after it {index}");
        events.expect(EventType::Create, "a", "created", index).await?;
        kv.delete("a").await?;
        events.expect_deletion("a", index).await?;
    }
    Ok(())
}

async fn the_same_value_again_is_an_event(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let mut events = other.watch("a", 0).await?;
    let created = kv.set("a", "same").await?;
    events.expect(EventType::Create, "a", "same", created).await?;
    for _ in 0..3 {
        let index = kv.set("a", "same").await?;
        events.expect(EventType::Update, "a", "same", index).await?;
    }
    Ok(())
}

async fn a_deletion_has_an_index(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let mut events = other.watch("", 0).await?;
    let mut last = 0;
    for verb in ["delete", "remove", "delete_tree", "transaction"] {
        let index = kv.set("a", "something").await?;
        check!("E2", index >= last, "after a deletion at {last} a write has index {index}");
        events.expect(EventType::Create, "a", "something", index).await?;
        match verb {
            "delete" => kv.delete("a").await?,
            "remove" => kv.remove("a", index).await?,
            "delete_tree" => kv.delete_tree("a").await?,
            _ => drop(kv.commit(kv.kv().txn().delete("a")).await?),
        }
        last = events.expect_deletion("a", index).await?;
        let listed = kv.get_all("").await?.index;
        check!("E2", last <= listed, "the deletion has index {last}, but the store is at {listed}");
    }
    Ok(())
}

async fn events_have_the_index_of_the_write(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let mut events = other.watch("", 0).await?;
    let created = kv.update("a", "1", 0).await?;
    events.expect(EventType::Create, "a", "1", created).await?;
    let updated = kv.update("a", "2", created).await?;
    events.expect(EventType::Update, "a", "2", updated).await?;
    let lease = kv.ephemeral_key("leased", cx.long_ttl()).await?;
    let event = events.next("E1").await?;
    let index = other.get("leased").await?.index;
    let expected = ("leased", EventType::Create, index, 0);
    same!(
        "E2",
        (&*event.key, event.event_type, event.index, event.data.len()),
        expected,
        "the event of an ephemeral key"
    );
    let set = kv.call("set the ephemeral key", lease.set("3")).await?;
    events.expect(EventType::Update, "leased", "3", set).await?;
    kv.call("destroy the ephemeral key", lease.destroy()).await?;
    events.expect_deletion("leased", set).await?;
    Ok(())
}

async fn a_transaction_comes_together(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let mut last = kv.set("b", "old").await?;
    last = last.max(kv.set("gone", "old").await?);
    let mut events = other.watch("", 0).await?;
    let transaction = kv.kv().txn().set("c", "1").delete("gone").set("a", "1").set("b", "1").delete("never");
    let index = kv.commit(transaction).await?.unwrap_or_default();
    kv.set("after", "1").await?;
    let mut seen = BTreeMap::new();
    for _ in 0..4 {
        let event = events.next("E1").await?;
        check!("E2", event.key != "after", "a later event came before all of the transaction's: {seen:?}");
        if event.event_type == EventType::Delete {
            check!("E2", event.index > last, "a deletion at {} of what was written at {last}", event.index);
        } else {
            same!("E2", event.index, index, "the index of the event of {:?}", event.key);
        }
        seen.insert(event.key, event.event_type);
    }
    let expected =
        [("a", EventType::Create), ("b", EventType::Update), ("c", EventType::Create), ("gone", EventType::Delete)];
    let expected = BTreeMap::from(expected.map(|(key, event_type)| (key.to_owned(), event_type)));
    same!("E2", seen, expected, "the events of the transaction");
    same!("E2", events.next("E1").await?.key, "after", "the key of the event after the transaction's");
    Ok(())
}

async fn a_tree_goes_together(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let keys = ["t", "t/a", "t/a/b", "t/c", "t/d e"];
    let mut last = 0;
    for key in keys {
        last = kv.set(key, "1").await?;
    }
    kv.set("tx", "1").await?;
    let mut events = other.watch("", 0).await?;
    kv.delete_tree("t").await?;
    let after = kv.set("tx", "2").await?;
    let (mut seen, mut indices) = (BTreeSet::new(), BTreeSet::new());
    for _ in keys {
        let event = events.next("E1").await?;
        let key = event.key.clone();
        check!("W4", key != "tx", "the tree's deletion came apart: before {after} only {seen:?} were seen");
        is_deletion(&event, &key, last)?;
        indices.insert(event.index);
        check!("E2", seen.insert(key.clone()), "the deletion of {key:?} came twice");
    }
    same!("E2", seen, BTreeSet::from(keys.map(str::to_owned)), "the keys deleted");
    same!("E2", indices.len(), 1, "the number of indices of one deletion");
    events.expect(EventType::Update, "tx", "2", after).await?;
    Ok(())
}

async fn a_deletion_of_nothing_is_no_event(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let mut events = other.watch("", 0).await?;
    kv.delete("never").await?;
    kv.delete_tree("never").await?;
    kv.remove("never", 0).await?;
    kv.commit(kv.kv().txn().delete("never").check("never", 0)).await?;
    let index = kv.set("last", "1").await?;
    let event = events.next("E1").await?;
    same!("E2", (&*event.key, event.index), ("last", index), "the first event after deletions of absent keys");
    Ok(())
}

async fn every_change_is_delivered(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let mut events = other.watch("", 0).await?;
    let mut expected = Vec::new();
    for number in 0..150 {
        let key = format!("k{}", number % 3);
        if number % 10 == 9 {
            kv.delete(&key).await?;
            expected.push((key, None));
        } else {
            let index = kv.set(&key, number.to_string()).await?;
            expected.push((key, Some(index)));
        }
    }
    for (key, index) in expected {
        let event = events.next("E3").await?;
        let seen = (event.event_type != EventType::Delete).then_some(event.index);
        same!("E3", (event.key, seen), (key, index), "the next event");
    }
    Ok(())
}

/// Writes a key as fast as one client can, ending with `last`.
async fn write_fast(client: &Client, key: &str, last: &str) -> Outcome<u64> {
    for number in 0..40 {
        if number % 13 == 12 {
            client.delete(key).await?;
        } else {
            client.set(key, number.to_string()).await?;
        }
    }
    Ok(client.set(key, last.to_owned()).await?)
}

async fn the_last_state_is_delivered(cx: Context) -> Outcome {
    let (kv, second, watcher) = (cx.client().await?, cx.client().await?, cx.client().await?);
    let mut events = watcher.watch("", 0).await?;
    let (a, b) = tokio::try_join!(write_fast(&kv, "a", "last"), write_fast(&second, "b", "last"))?;
    let mut waiting = BTreeMap::from([("a", a), ("b", b)]);
    let mut newest = BTreeMap::new();
    while !waiting.is_empty() {
        let event = events.next("E3").await?;
        let before = newest.insert(event.key.clone(), event.index);
        check!("E2", before < Some(event.index), "after index {before:?} of the same key came {event:?}");
        if waiting.get(&*event.key) == Some(&event.index) {
            same!("E2", event.data, "last", "the data at the last index of {:?}", event.key);
            waiting.remove(&*event.key);
        }
    }
    Ok(())
}

async fn a_recreated_key_was_deleted(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let mut events = other.watch("", 0).await?;
    let mut index = kv.set("a", "0").await?;
    events.expect(EventType::Create, "a", "0", index).await?;
    for round in 1..=8 {
        let before = index;
        kv.delete("a").await?;
        index = kv.set("a", round.to_string()).await?;
        let deletion = events.next("E3").await?;
        check!("E3", deletion.event_type == EventType::Delete, "a key deleted and created again came as {deletion:?}");
        is_deletion(&deletion, "a", before)?;
        check!("E2", deletion.index <= index, "the deletion at {} came before the creation at {index}", deletion.index);
        events.expect(EventType::Create, "a", &round.to_string(), index).await?;
    }
    Ok(())
}

async fn a_short_life_leaves_no_key(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let mut events = other.watch("", 0).await?;
    for number in 0..20 {
        let key = format!("k{}", number % 4);
        kv.set(&key, number.to_string()).await?;
        kv.delete(&key).await?;
    }
    let last = kv.set("last", "1").await?;
    let mut live = BTreeSet::new();
    loop {
        let event = events.next("E3").await?;
        match event.event_type {
            EventType::Create => check!("E2", live.insert(event.key.clone()), "created twice: {event:?}"),
            EventType::Delete => check!("E2", live.remove(&event.key), "deleted what was not there: {event:?}"),
            EventType::Update => check!("E2", false, "updated what was deleted each time: {event:?}"),
        }
        if event.index == last {
            break;
        }
    }
    same!("E3", live, BTreeSet::from(["last".to_owned()]), "what the events leave");
    Ok(())
}

async fn watches_are_independent(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let mut watches = Vec::new();
    for number in 0..30 {
        let prefix = if number % 3 == 0 { "" } else { "k" };
        watches.push(other.watch(prefix, 0).await?);
    }
    for round in 0..6 {
        let index = kv.set("k", round.to_string()).await?;
        for events in &mut watches {
            let event = events.next("E1").await?;
            same!("E1", (&*event.key, event.index), ("k", index), "the event of round {round}");
        }
        // Some watches are dropped with unread events.
        kv.set("k", "unread").await?;
        watches.truncate(watches.len() - 5);
        for events in &mut watches {
            same!("E1", events.next("E1").await?.data, "unread", "the last event of round {round}");
        }
        if watches.len() <= 5 {
            break;
        }
    }
    Ok(())
}

async fn a_slow_consumer_is_no_burden(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let mut events = other.watch("", 0).await?;
    // Another watch is read and must not be delayed.
    let mut prompt = other.watch("k", 0).await?;
    let data = vec![b'x'; cx.limits().value_bytes.min(8 << 10)];
    for number in 0..400 {
        let index = kv.kv().set(&format!("k{}", number % 7), data.clone()).await.keeps("E5")?;
        while number % 20 == 0 && prompt.next("E5").await?.index < index {}
    }
    kv.set("last", "last").await.keeps("E5")?;
    let stored = kv.get_all("").await?.values;
    let Some(seen) = replay(&cx, &mut events, "last", "last").await? else { return Ok(()) };
    let mut shown = BTreeMap::new();
    let mut index = 0;
    for event in seen {
        check!("E2", event.index >= index, "after index {index} came {}", event.index);
        index = event.index;
        shown.insert(event.key, Value::new(event.data, event.index));
    }
    check!("E1", shown == stored, "a watch that was read late shows other values than the store has");
    Ok(())
}

async fn a_watch_needs_no_other_call(cx: Context) -> Outcome {
    let (kv, idle) = (cx.client().await?, cx.client().await?);
    let events = idle.watch("a", 0).await?;
    drop(idle);
    let waiting = tokio::spawn(async move {
        let mut events = events;
        events.next("E1").await
    });
    let index = kv.set("a", "1").await?;
    match waiting.await {
        Ok(event) => same!("E1", event?.index, index, "the index of the event"),
        Err(panic) => check!("E1", false, "{panic}"),
    }
    Ok(())
}
