//! Tasks that call one shared handle without a pause during planned work on the store. No call may fail that could have
//! been repeated in its time.

use kv_core::{Kv, Value};
use tokio::task::JoinSet;

use crate::chaos::stage::{Stage, pace};
use crate::chaos::storm::Role;
use crate::chaos::tally::{Tally, tolerate};
use crate::outcome::{Outcome, all_end};

pub(crate) const TASKS: usize = 8;

/// Runs the tasks if the fault is planned work.
pub(crate) async fn run(stage: Stage, tally: Tally, planned: bool) -> Outcome {
    if !planned {
        return Ok(());
    }
    let kv = stage.connect(Role::Client, 0).await?;
    let mut tasks = JoinSet::new();
    for number in 0..TASKS {
        tasks.spawn(work(stage.clone(), tally.clone(), kv.clone(), number));
    }
    all_end(&mut tasks).await.map(drop)
}

async fn work(stage: Stage, tally: Tally, kv: Kv, number: usize) -> Outcome {
    let key = format!("busy/{number}");
    let mut pace = pace(5);
    for step in 0_usize.. {
        pace.tick().await;
        if stage.is_over() {
            break;
        }
        let calling = async {
            match step % 8 {
                0 => kv.get_all(&key).await.map(drop),
                1 => kv.keys("busy").await.map(drop),
                2 => kv.txn().set(&key, "t").set(&format!("{key}/beside"), "").commit().await.map(drop),
                3 => kv.update(&key, Value::new("c", 0)).await.map(drop),
                4 => kv.delete(&key).await,
                5 => kv.watch(&key, 0).await.map(drop),
                _ => kv.set(&key, step.to_string()).await.map(drop),
            }
        };
        if let Err(error) = tally.call(number, calling).await {
            tolerate(error)?;
        }
    }
    tally.leave(number);
    Ok(())
}
