//! Members that register ephemeral keys and renew them. No key may vanish while it is renewed, and the key of a member
//! that dies must vanish.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kv_core::{EphemeralKey, Error, EventType, Kv};
use tokio::task::JoinSet;

use crate::chaos::stage::{Stage, pace};
use crate::chaos::storm::Role;
use crate::chaos::tally::{Tally, tolerate};
use crate::judge::{End, Life, Vanishing};
use crate::outcome::{Broke, Outcome, all_end, check};

pub(crate) const MEMBERS: usize = 4;

/// What the members did, and what an observer saw.
#[derive(Default)]
pub(crate) struct Lives {
    pub(crate) lives: Vec<Life>,
    pub(crate) vanishings: Vec<Vanishing>,
}

pub(crate) async fn run(stage: Stage, tally: Tally) -> Outcome<Lives> {
    let vanishings: Arc<Mutex<Vec<Vanishing>>> = Arc::default();
    let mut members = JoinSet::new();
    for number in 0..MEMBERS {
        members.spawn(member(stage.clone(), tally.clone(), number));
    }
    let observing = tokio::spawn(observe(stage, vanishings.clone()));
    let lives = all_end(&mut members).await?.concat();
    let observed = observing.await.map_err(|panic| Broke { clause: None, what: panic.to_string() })?;
    observed?;
    let vanishings = std::mem::take(&mut *vanishings.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(Lives { lives, vanishings })
}

async fn member(stage: Stage, tally: Tally, number: usize) -> Outcome<Vec<Life>> {
    let kv = stage.connect(Role::Client, number).await?;
    let key = format!("member/{number}");
    let mut random = stage.random(300 + number as u64);
    let mut lives = Vec::new();
    let mut pace = pace(100);
    // The handles of members that died. Dropping a handle would remove its key.
    let mut dead: Vec<EphemeralKey> = Vec::new();
    while !stage.is_over() {
        pace.tick().await;
        let began = stage.millis();
        let handle = match tally.call(number, kv.ephemeral_key(&key, stage.ttl())).await {
            Ok(handle) => handle,
            Err(error) => {
                tolerate(error)?;
                continue;
            }
        };
        let data = format!("{number}.{}", lives.len());
        let kept_until = began + millis(handle.ttl());
        let mut life = Life { key: key.clone(), data, kept_until, end: End::Killed };
        let renewals = 2 + random.below(6);
        if let Some(lost) = live(&stage, &tally, number, &handle, &mut life, renewals).await? {
            life.end = End::Lost(lost);
        } else if random.below(2) == 0 {
            life.end = End::Destroyed(stage.millis());
            if let Err(error) = tally.call(number, handle.destroy()).await {
                tolerate(error)?;
            }
        } else {
            dead.push(handle);
            // The member is silent for longer than a time to live, as after a crash.
            tally.leave(number);
            vanishes(&stage, &kv, &key).await?;
            tally.enter(number);
        }
        lives.push(life);
    }
    tally.leave(number);
    Ok(lives)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Renews `renewals` times, or until the key is lost. Returns when it learned of the loss.
async fn live(
    stage: &Stage,
    tally: &Tally,
    number: usize,
    handle: &EphemeralKey,
    life: &mut Life,
    renewals: u32,
) -> Outcome<Option<u64>> {
    let mut renewed = 0;
    while renewed < renewals && !stage.is_over() {
        let began = stage.millis();
        let renewing =
            async { if renewed == 0 { handle.set(life.data.clone()).await.map(drop) } else { handle.renew().await } };
        match tally.call(number, renewing).await {
            Ok(()) => {
                life.kept_until = began + millis(handle.ttl());
                renewed += 1;
            }
            Err(Error::Lost { .. }) => return Ok(Some(stage.millis())),
            Err(error) => tolerate(error)?,
        }
        tokio::select! {
            () = tokio::time::sleep(handle.ttl() / 6) => {}
            () = stage.over() => {}
        }
        tally.rest(number);
    }
    Ok(None)
}

/// Waits until the key of a dead member is gone; [L1](kv_core::contract::CLAUSES#L1) is broken if it stays, not
/// counting the time of faults.
async fn vanishes(stage: &Stage, kv: &Kv, key: &str) -> Outcome {
    let died = Instant::now();
    let limit = stage.cx.beyond(stage.ttl()) + stage.cx.patience();
    let mut pace = pace(100);
    loop {
        pace.tick().await;
        match kv.get(key).await {
            Err(Error::NotFound { .. }) => return Ok(()),
            Ok(_) => {
                let waited = stage.calm_since().map(|calm| calm.max(died).elapsed());
                let late = waited.is_some_and(|waited| waited > limit);
                check!("L1", !late, "{key:?} is still there {limit:?} after its holder had died");
            }
            Err(error) => tolerate(error)?,
        }
    }
}

/// Records every deletion with the last data of the key.
async fn observe(stage: Stage, vanishings: Arc<Mutex<Vec<Vanishing>>>) -> Outcome {
    let kv = stage.connect(Role::Client, MEMBERS).await?;
    let mut data: HashMap<String, String> = HashMap::new();
    while !stage.is_over() {
        let Ok((listing, mut watch)) = kv.observe("member/").await else { continue };
        let text = |data: &[u8]| String::from_utf8_lossy(data).into_owned();
        data.extend(listing.values.iter().map(|(key, value)| (key.clone(), text(&value.data))));
        loop {
            let event = tokio::select! {
                event = watch.next() => event,
                () = stage.over() => return Ok(()),
            };
            match event {
                Some(Ok(event)) if event.event_type == EventType::Delete => {
                    let data = data.remove(&event.key).unwrap_or_default();
                    let vanishing = Vanishing { key: event.key, data, seen: stage.millis() };
                    vanishings.lock().unwrap_or_else(PoisonError::into_inner).push(vanishing);
                }
                Some(Ok(event)) => drop(data.insert(event.key, text(&event.data))),
                // The history is gone, so the observer starts again from a listing.
                Some(Err(Error::Compacted { .. })) => break,
                Some(Err(error)) => return Err(Broke::new("E4", format!("the watch ended: {error}"))),
                None => return Err(Broke::new("E4", "the watch ended without an error")),
            }
        }
    }
    Ok(())
}
