//! A counter behind a lock. The guarded writes must be in the order of their tokens, and none may be lost.
//!
//! Each holder also increments a second counter without the lock's guard. Increments of that one may be lost, and no
//! store can prevent it: a holder that stalls long enough loses the lock without knowing. The report shows how many
//! were lost.

use std::time::{Duration, Instant};

use kv_core::{Error, Kv, Lock, Value};
use tokio::task::JoinSet;

use crate::chaos::stage::{Stage, pace};
use crate::chaos::storm::Role;
use crate::chaos::tally::{Tally, tolerate};
use crate::judge::{Section, Write};
use crate::outcome::{Outcome, all_end, check};

const CLIENTS: usize = 4;
/// One holder in so many stalls for longer than its time to live.
const STALLS: u32 = 16;
/// All contenders count as one client in the tally. They wait for one another, and only the lock as a whole must make
/// progress.
const ANYONE: usize = 0;

/// What the holders did, and the final counters.
pub(crate) struct Held {
    pub(crate) sections: Vec<Section>,
    pub(crate) counter: u64,
    /// The number of acknowledged increments without guard that were lost.
    pub(crate) lost_unguarded: u64,
}

pub(crate) async fn run(stage: Stage, tally: Tally) -> Outcome<Held> {
    let kv = stage.connect(Role::Client, 0).await?;
    kv.txn().set("guarded", "0").set("unguarded", "0").commit().await?;
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(contend(stage.clone(), tally.clone(), number));
    }
    let results = all_end(&mut clients).await?;
    tally.leave(ANYONE);
    let read = |key: &'static str| {
        let kv = &kv;
        stage.cx.until("A6", "a counter is read", move || async move { Ok(kv.get(key).await.ok()) })
    };
    let counter = count(&read("guarded").await?);
    let (mut sections, mut raised) = (Vec::new(), 0);
    for (mut some, unguarded) in results {
        sections.append(&mut some);
        raised += unguarded;
    }
    let lost_unguarded = raised.saturating_sub(count(&read("unguarded").await?));
    check!("L4", !sections.is_empty(), "no client ever got the lock");
    Ok(Held { sections, counter, lost_unguarded })
}

fn count(value: &Value) -> u64 {
    String::from_utf8_lossy(&value.data).parse().unwrap_or_default()
}

/// Returns the sections of one contender, and how often it incremented the unguarded counter.
async fn contend(stage: Stage, tally: Tally, number: usize) -> Outcome<(Vec<Section>, u64)> {
    let kv = stage.connect(Role::Client, number).await?;
    let mut random = stage.random(200 + number as u64);
    let (mut sections, mut raised) = (Vec::new(), 0);
    let mut pace = pace(25);
    while !stage.is_over() {
        pace.tick().await;
        // The wait is not counted as an answer that does not come.
        let began = Instant::now();
        let lock = match kv.lock("lock", stage.ttl()).await {
            Ok(lock) => lock,
            Err(error) => {
                tally.note(ANYONE, began, Some(&error));
                tolerate(error)?;
                continue;
            }
        };
        tally.rest(ANYONE);
        let stall = if random.below(STALLS) == 0 { stage.cx.beyond(lock.ttl()) } else { Duration::ZERO };
        match section(&tally, &kv, &lock, number, stall).await {
            Ok(section) => sections.push(section),
            Err(error) => tolerate(error)?,
        }
        let raising = async {
            let read = kv.get("unguarded").await?;
            kv.set("unguarded", (count(&read) + 1).to_string()).await
        };
        match tally.call(ANYONE, raising).await {
            Ok(_) => raised += 1,
            Err(error) => tolerate(error)?,
        }
        if let Err(error) = tally.call(ANYONE, lock.unlock()).await {
            tolerate(error)?;
        }
    }
    Ok((sections, raised))
}

async fn section(tally: &Tally, kv: &Kv, lock: &Lock, client: usize, stall: Duration) -> kv_core::Result<Section> {
    let count = count(&tally.call(ANYONE, kv.get("guarded")).await?) + 1;
    if !stall.is_zero() {
        // The holder stalls like a process that the system does not schedule.
        tokio::time::sleep(stall).await;
        tally.rest(ANYONE);
    }
    let write = match tally.call(ANYONE, kv.txn().held(lock).set("guarded", count.to_string()).commit()).await {
        Ok(index) => Write::Applied(index.unwrap_or_default()),
        Err(Error::Lost { .. }) => Write::Refused,
        Err(Error::Indeterminate { .. }) => Write::Unknown,
        Err(error) => return Err(error),
    };
    Ok(Section { client, token: lock.token(), count, write })
}
