//! Keys that are written and deleted, and observers of all of them: does what each is told add up to what is there?
//!
//! Some observe from the beginning, others begin at random moments, while the store is being hurt too.

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
/// Those from the beginning.
pub(crate) const OBSERVERS: usize = 3;
/// Those that come later.
const LATECOMERS: usize = 6;
/// What is written when nothing more will be.
const LAST: &str = "watch/last";

/// Where the observers are to end: at the index of [`LAST`], once that is known.
type End = watch::Receiver<Option<u64>>;

/// The writers; they are done when this returns, and then [`observers`] are told where to end.
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

/// The observers; they read on until they have seen the last write.
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
        // How much of the last write it has seen.
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
                    let what = format!("observer {number} was not told of the last write within {limit:?}");
                    return Err(Broke::new("E1", what));
                }
            }
        }
        observations.push(observation);
    }
}

/// Writes what comes last, and reads what is there at that point: nothing of unknown fate comes after it.
pub(crate) async fn finish(stage: &Stage, kv: &Kv) -> Outcome<(u64, BTreeMap<String, Value>)> {
    let finished = || async {
        let (Ok(index), Ok(listing)) = (kv.set(LAST, "").await, kv.get_all("watch/").await) else { return Ok(None) };
        Ok((listing.index == index).then_some((index, listing.values)))
    };
    stage.cx.until("R2", "a listing is at the index of the last write", finished).await
}
