//! The history of a store, and what watches show when it is lost or replaced: clauses
//! [E1](kv_core::contract::CLAUSES#E1) and [E8](kv_core::contract::CLAUSES#E8).

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use kv_core::{Error, EventType, Value};

use crate::case::cases;
use crate::client::{Client, Events};
use crate::context::Context;
use crate::outcome::{Broke, Keeps as _, Outcome, check, same};

cases! { "history":
    a_large_commit_ends_no_watch ["E8", "E3"] needs [Alone] "A watch that keeps up sees the whole of a commit with more changes than a store may keep."
    a_lagging_watch_says_where_it_stopped ["E8", "E1"] needs [EveryChange, Alone] "A watch that falls behind goes on without a gap, or says after which index it has lost the events."
    a_replaced_history_is_no_secret ["E8", "E4"] needs [Faults, ReplacedHistory] "Watches over a store that is replaced by an empty one, or by an older copy, show the whole difference or end with `Compacted`."
}

/// The state that a listing and the events after it add up to. It has no indices: those of a restored copy are smaller
/// than what a watch has shown, and the indices of its events must not go back.
type State = BTreeMap<String, Bytes>;

/// More changes than the smallest history holds, which is the memory store's with 10,000 events.
const MANY: usize = 10_500;

/// Writes many keys of a directory, in as few transactions as the limits allow; returns the last index.
async fn fill(kv: &Client, cx: &Context, directory: &str, keys: usize) -> Outcome<u64> {
    let each = cx.limits().txn_ops.clamp(1, 512);
    let mut last = 0;
    let mut next = 0;
    while next < keys {
        let end = keys.min(next + each);
        let transaction = (next..end).fold(kv.kv().txn(), |txn, key| txn.set(&format!("{directory}/{key:05}"), ""));
        last = transaction.commit().await?.unwrap_or_default();
        next = end;
    }
    cx.note(format_args!("wrote {keys} keys below {directory:?}, up to index {last}"));
    Ok(last)
}

async fn a_large_commit_ends_no_watch(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let last = fill(&kv, &cx, "many", MANY).await?;
    let mut watch = other.kv().watch("many/", 0).await?;
    kv.delete_tree("many").await?;
    let mut index = None;
    for place in 0..MANY {
        let item = tokio::time::timeout(cx.patience(), watch.next()).await;
        let event = match item {
            Ok(Some(Ok(event))) => event,
            Ok(Some(Err(error))) => return Err(Broke::new("E8", format!("after {place} of {MANY} events: {error}"))),
            Ok(None) => return Err(Broke::new("E4", "the watch ended without an error")),
            Err(_elapsed) => return Err(Broke::new("E1", format!("only {place} of {MANY} events came"))),
        };
        check!("E2", event.event_type == EventType::Delete, "a deletion is shown as {event:?}");
        check!("E2", event.index > last, "a deletion after index {last} has index {}", event.index);
        same!("E2", *index.get_or_insert(event.index), event.index, "the index of one commit");
    }
    Ok(())
}

async fn a_lagging_watch_says_where_it_stopped(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    let mut watch = other.kv().watch("many/", 0).await?;
    // The watch keeps up for a while, and then it is not read.
    let mut seen = kv.set("many/00000", "first").await?;
    let first = tokio::time::timeout(cx.patience(), watch.next()).await;
    let is_first = matches!(&first, Ok(Some(Ok(event))) if event.index == seen);
    check!("E1", is_first, "the first event is {first:?}");
    let last = fill(&kv, &cx, "many", MANY).await?;
    while seen < last {
        match tokio::time::timeout(cx.patience(), watch.next()).await {
            Ok(Some(Ok(event))) => {
                check!("E2", event.index >= seen, "after index {seen} came {event:?}");
                seen = event.index;
            }
            Ok(Some(Err(Error::Compacted { after, oldest }))) => {
                same!("E8", after, seen, "the index after which the watch says it lost the events");
                check!("E8", oldest.is_none_or(|oldest| oldest > after), "nothing is lost after {after}: {oldest:?}");
                return ends(&mut watch, cx.patience()).await;
            }
            Ok(Some(Err(error))) => return Err(error).keeps("E8"),
            Ok(None) => return Err(Broke::new("E8", "the watch ended without an error")),
            Err(_elapsed) => return Err(Broke::new("E8", format!("after index {seen} nothing came, up to {last}"))),
        }
    }
    Ok(())
}

async fn a_replaced_history_is_no_secret(cx: Context) -> Outcome {
    let (kv, other) = (cx.client().await?, cx.client().await?);
    for key in ["w/kept", "w/changed", "w/gone"] {
        kv.set(key, "1").await?;
    }
    cx.hurt("save a copy of the store", cx.faults()?.save_history()).await?;
    kv.set("w/changed", "2").await?;
    kv.set("w/new", "2").await?;
    kv.delete("w/gone").await?;
    let (listing, observed) = other.observe("w/").await?;
    let before: State = state_of(listing.values);
    let watched = cx.client().await?.watch("w/", listing.index).await?;
    cx.hurt("replace the store", cx.faults()?.replace_history()).await?;
    cx.until("E4", "a write succeeds again", || async { Ok(kv.set("w/marker", "").await.ok()) }).await?;
    let after = state_of(kv.get_all("w/").await?.values);
    for (what, mut events) in [("an observation", observed), ("a watch", watched)] {
        if let Some(seen) = up_to_the_marker(&cx, before.clone(), &mut events).await? {
            same!("E8", seen, after, "the state that the listing and the events of {what} add up to");
        }
    }
    // A watch that is opened now shows nothing of the former store.
    let (listing, mut reopened) = other.observe("w/").await.keeps("E8")?;
    same!("E8", state_of(listing.values), after, "the listing of the store that replaces it");
    let index = kv.set("w/kept", "3").await?;
    let event = reopened.next("E8").await?;
    same!("E8", (event.key.as_str(), event.index), ("w/kept", index), "the event of the next write");
    Ok(())
}

fn state_of(values: BTreeMap<String, Value>) -> State {
    values.into_iter().map(|(key, value)| (key, value.data)).collect()
}

/// Follows events until that of `w/marker`, and returns the state that they add up to; `None` if the watch ended with
/// `Compacted`.
async fn up_to_the_marker(cx: &Context, mut state: State, events: &mut Events) -> Outcome<Option<State>> {
    loop {
        match events.item(cx.expiry()).await {
            Some(Some(Ok(event))) => {
                let last = event.key == "w/marker";
                match event.event_type {
                    EventType::Delete => state.remove(&event.key),
                    _ => state.insert(event.key, event.data),
                };
                if last {
                    return Ok(Some(state));
                }
            }
            Some(Some(Err(Error::Compacted { .. }))) => return Ok(None),
            Some(Some(Err(error))) => return Err(error).keeps("E8"),
            Some(None) => return Err(Broke::new("E4", "the watch ended without an error")),
            None => return Err(Broke::new("E8", format!("a watch of a replaced store has only shown {state:?}"))),
        }
    }
}

/// Requires that an error is the last item of a watch.
async fn ends(watch: &mut kv_core::Watch, patience: Duration) -> Outcome {
    let after = tokio::time::timeout(patience, watch.next()).await;
    check!("E4", matches!(after, Ok(None)), "after the error of a watch came {after:?}");
    Ok(())
}
