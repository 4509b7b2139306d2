//! What a store remembers of its past: clauses E1 and E8, as far as a store without faults can show them.
//!
//! What needs a server that is hurt (a restored snapshot, a store that was emptied, a permission that is taken away)
//! stands with the cases of faults.

use std::time::Duration;

use kv_core::{Error, EventType};

use crate::case::cases;
use crate::client::Client;
use crate::context::Context;
use crate::outcome::{Broke, Keeps as _, Outcome, check, same};

cases! { "history":
    a_large_commit_ends_no_watch ["E8", "E3"] needs [Alone] "A commit of more changes than a store may keep is seen whole by a watch that keeps up."
    a_lagging_watch_says_where_it_stopped ["E8", "E1"] needs [EveryChange, Alone] "A watch that falls behind goes on without a gap, or says after which index it has lost the events."
}

/// More changes than a store keeps that keeps few: the memory store's history holds 10,000 events.
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
    // It keeps up for a while, and then nobody reads it.
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

/// An error is the last item of a watch.
async fn ends(watch: &mut kv_core::Watch, patience: Duration) -> Outcome {
    let after = tokio::time::timeout(patience, watch.next()).await;
    check!("E4", matches!(after, Ok(None)), "after the error of a watch came {after:?}");
    Ok(())
}
