//! Everything that can be told from what clients did to single keys.

use std::collections::BTreeMap;

use super::{Judgement, Linearizability, Op, Record, judge_order, judge_winners, linearizable};
use crate::outcome::Broke;

/// How far the search for an order goes. A history that needs more is too large to be judged.
const STEPS: usize = 200_000;

/// Judges a history of keys, each of them by itself: indices, winners of races, and whether it is linearizable.
///
/// # Errors
/// [`Broke`] with R1, W1, W2 or W3, and the operations that show it; R1 also for a history that is too large.
pub fn judge_registers(records: &[Record]) -> Judgement {
    judge_order(records)?;
    judge_winners(records)?;
    let mut by_key: BTreeMap<&str, Vec<Record>> = BTreeMap::new();
    for record in records {
        by_key.entry(&record.key).or_default().push(record.clone());
    }
    for (key, records) in by_key {
        match linearizable(&records, STEPS) {
            Linearizability::Linearizable => {}
            Linearizability::Undecided => {
                return Err(Broke::new(
                    "R1",
                    format!("{key:?}: neither an order nor that there is none was found within {STEPS} steps"),
                ));
            }
            Linearizability::Not { placed, stuck } => {
                let clause = if stuck.iter().any(|record| record.op == Op::Get) { "R1" } else { "W2" };
                let lines =
                    |records: &[Record]| records.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n  ");
                let what = format!(
                    "{key:?}: after {placed} operations none of these can come next:\n  {}\nof this history:\n  {}",
                    lines(&stuck),
                    lines(&records)
                );
                return Err(Broke::new(clause, what));
            }
        }
    }
    Ok(())
}
