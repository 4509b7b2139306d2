//! Single keys, each read and written by a few clients. Some order of the operations must explain every answer.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use kv_core::{Error, Value};
use tokio::task::JoinSet;

use crate::chaos::stage::{Stage, pace};
use crate::chaos::storm::Role;
use crate::chaos::tally::{Tally, tolerate};
use crate::judge::{self, History, Op, Record};
use crate::outcome::{Outcome, all_end};

/// How many keys are in use at a time.
const GROUPS: usize = 3;
/// How many clients share a key.
const SHARING: usize = 4;
pub(crate) const CLIENTS: usize = GROUPS * SHARING;
/// After so many operations a group goes on to a new key, because the search for an order takes exponential time at
/// worst.
const OPERATIONS: usize = 100;

pub(crate) async fn run(stage: Stage, tally: Tally) -> Outcome<Vec<Record>> {
    let history = History::new();
    let mut clients = JoinSet::new();
    for group in 0..GROUPS {
        let counter: Arc<AtomicUsize> = Arc::default();
        for member in 0..SHARING {
            let number = group * SHARING + member;
            clients.spawn(client(stage.clone(), tally.clone(), history.clone(), counter.clone(), group, number));
        }
    }
    all_end(&mut clients).await?;
    Ok(history.records())
}

async fn client(
    stage: Stage,
    tally: Tally,
    history: History,
    counter: Arc<AtomicUsize>,
    group: usize,
    number: usize,
) -> Outcome {
    let kv = stage.connect(Role::Client, number).await?;
    let mut random = stage.random(number as u64);
    let mut known: HashMap<String, u64> = HashMap::new();
    let mut pace = pace(25);
    for step in 0.. {
        pace.tick().await;
        if stage.is_over() {
            break;
        }
        let generation = counter.fetch_add(1, Ordering::Relaxed) / OPERATIONS;
        let key = format!("register/{group}-{generation}");
        let last = known.get(&key).copied().unwrap_or_default();
        let data = format!("{number}.{step}");
        let op = match random.below(10) {
            0..=3 => Op::Get,
            4 | 5 => Op::Set(data.into()),
            6 | 7 => Op::Update(Value::new(data, last)),
            8 => Op::Remove(last),
            _ => Op::Delete,
        };
        let began = Instant::now();
        let outcome = match history.run(number, &kv, &key, op).await {
            Ok(outcome) => outcome,
            Err(error) => return tolerate(error),
        };
        let error = match outcome {
            judge::Outcome::Found(Value { index, .. }) | judge::Outcome::Wrote(index) => {
                known.insert(key, index);
                None
            }
            judge::Outcome::Absent | judge::Outcome::Deleted => {
                known.remove(&key);
                None
            }
            judge::Outcome::Conflict => Some(Error::conflict(key, 0)),
            judge::Outcome::NotApplied => Some(Error::unavailable("an operation on a register")),
            judge::Outcome::Unknown => {
                // An operation of unknown outcome may take effect at any later time. A key with many of them cannot be
                // judged.
                counter.fetch_max((generation + 1) * OPERATIONS, Ordering::Relaxed);
                Some(Error::indeterminate("an operation on a register"))
            }
        };
        tally.note(number, began, error.as_ref());
    }
    tally.leave(number);
    Ok(())
}
