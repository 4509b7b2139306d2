//! All checks of operations on single keys.

use std::collections::BTreeMap;

use super::{Judgement, Linearizability, Op, Record, judge_order, judge_winners, linearizable};
use crate::outcome::Broke;

/// The most steps of the search for an order. A history that needs more is too large to judge.
const STEPS: usize = 200_000;

/// Judges each key of a history: indices, winners of races, and linearizability.
///
/// # Errors
/// [`Broke`] with [R1](kv_core::contract::CLAUSES#R1), [W1](kv_core::contract::CLAUSES#W1),
/// [W2](kv_core::contract::CLAUSES#W2) or [W3](kv_core::contract::CLAUSES#W3), and the operations that prove it. A
/// history that is too large is reported as [R1](kv_core::contract::CLAUSES#R1).
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
