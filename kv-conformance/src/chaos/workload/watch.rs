//! Keys that are written and deleted, and observers of all of them. The listing and events of each observer must add up
//! to the final state.
//!
//! Some observe from the beginning. Others begin at random moments, also while the fault is in force.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kv_core::{Error, Kv, Value};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::chaos::stage::{Stage, pace};
use crate::chaos::storm::Role;
use crate::chaos::tally::{Tally, tolerate};
use crate::judge::{Change, Observation};
use crate::outcome::{Broke, Outcome, all_end, check};

pub(crate) const WRITERS: usize = 3;
/// The number of observers from the beginning.
pub(crate) const OBSERVERS: usize = 3;
/// The number of observers that begin later.
const LATECOMERS: usize = 6;
/// The key of the last write.
const LAST: &str = "watch/last";

/// The index of the write of [`LAST`], at which the observers end, once it is known.
type End = watch::Receiver<Option<u64>>;

/// Runs the writers. After it returns, the caller writes [`LAST`] and sends its index to the [`observers`].
pub(crate) async fn writers(stage: Stage, tally: Tally) -> Outcome<Vec<Change>> {
    let mut clients = JoinSet::new();
    for number in 0..WRITERS {
        clients.spawn(write(stage.clone(), tally.clone(), number));
    }
    Ok(all_end(&mut clients).await?.concat())
}

async fn write(stage: Stage, tally: Tally, number: usize) -> Outcome<Vec<Change>> {
    let kv = stage.connect(Role::Client, number).await?;
    let mut random = stage.random(400 + number as u64);
    let mut changes = Vec::new();
    let mut pace = pace(20);
    for step in 0.. {
        pace.tick().await;
        if stage.is_over() {
            break;
        }
        let key = format!("watch/{}", random.below(8));
        let data = format!("{number}.{step}");
        let change = |key: &str, index| Change { key: key.to_owned(), data: data.clone().into(), index };
        let written = match random.below(8) {
            0 => tally.call(number, kv.delete(&key)).await.map(|()| Vec::new()),
            1 => {
                let beside = format!("watch/beside/{}", random.below(4));
                let txn = kv.txn().set(&key, data.clone()).set(&beside, data.clone());
                let index = tally.call(number, txn.commit()).await;
                index.map(|index| {
                    index.into_iter().flat_map(|index| [change(&key, index), change(&beside, index)]).collect()
                })
            }
            _ => tally.call(number, kv.set(&key, data.clone())).await.map(|index| vec![change(&key, index)]),
        };
        match written {
            Ok(written) => changes.extend(written),
            Err(error) => tolerate(error)?,
        }
    }
    tally.leave(number);
    Ok(changes)
}

/// Runs the observers until each has seen the last write.
pub(crate) async fn observers(stage: Stage, tally: Tally, end: End) -> Outcome<Vec<Observation>> {
    let mut clients = JoinSet::new();
    for number in 0..OBSERVERS {
        clients.spawn(observe(stage.clone(), tally.clone(), end.clone(), number));
    }
    let mut random = stage.random(500);
    for number in OBSERVERS..OBSERVERS + LATECOMERS {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(random.below(2500).into())) => {}
            () = stage.over() => break,
        }
        clients.spawn(observe(stage.clone(), tally.clone(), end.clone(), number));
    }
    Ok(all_end(&mut clients).await?.concat())
}

async fn observe(stage: Stage, tally: Tally, mut end: End, number: usize) -> Outcome<Vec<Observation>> {
    let kv = stage.connect_in_the_end(Role::Observer, number).await?;
    let mut observations = Vec::new();
    let mut pace = pace(100);
    tally.enter(number);
    loop {
        pace.tick().await;
        let began = Instant::now();
        let (listing, mut watch) = match kv.observe("watch/").await {
            Ok(observed) => observed,
            Err(error) => {
                tally.note(number, began, Some(&error));
                tolerate(error)?;
                continue;
            }
        };
        // The index of the last write, as far as this observer has seen it.
        let mut last = listing.values.get(LAST).map_or(0, |value| value.index);
        let mut observation =
            Observation { listing: listing.values, index: listing.index, events: Vec::new(), compacted: false };
        while !observation.compacted {
            let known_end = *end.borrow_and_update();
            if known_end.is_some_and(|end| last >= end) {
                observations.push(observation);
                return Ok(observations);
            }
            let limit = if known_end.is_some() { stage.cx.expiry() } else { Duration::MAX };
            let item = tokio::select! {
                changed = end.changed() => {
                    check!("E1", changed.is_ok(), "the run ended before its end was known");
                    continue;
                }
                item = tokio::time::timeout(limit, watch.next()) => item,
            };
            match item {
                Ok(Some(Ok(event))) => {
                    tally.event(number);
                    if event.key == LAST {
                        last = event.index;
                    }
                    observation.events.push(event);
                }
                Ok(Some(Err(Error::Compacted { .. }))) => {
                    tally.compacted();
                    observation.compacted = true;
                }
                Ok(Some(Err(error))) => return Err(Broke::new("E4", format!("the watch ended: {error}"))),
                Ok(None) => return Err(Broke::new("E4", "the watch ended without an error")),
                Err(_) => {
                    let what = format!("observer {number} did not see the last write within {limit:?}");
                    return Err(Broke::new("E1", what));
                }
            }
        }
        observations.push(observation);
    }
}

/// Makes the last write, and reads the state at its index. No write of unknown fate may come after it, so it repeats
/// both until the indices agree.
pub(crate) async fn finish(stage: &Stage, kv: &Kv) -> Outcome<(u64, BTreeMap<String, Value>)> {
    let finished = || async {
        let (Ok(index), Ok(listing)) = (kv.set(LAST, "").await, kv.get_all("watch/").await) else { return Ok(None) };
        Ok((listing.index == index).then_some((index, listing.values)))
    };
    stage.cx.until("R2", "a listing is at the index of the last write", finished).await
}
