//! What can be judged without a search: the order of indices in time, and the winners of races.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use super::{Judgement, Op, Outcome, Record};
use crate::outcome::Broke;

/// Judges the indices of a history of unique values: each is positive, belongs to one value, and grows with time.
///
/// An operation is later than another one if it began after the other one had ended. On one key, the later operation
/// never has a smaller index, and a later write has a larger one. Of two writes of different keys, the later one never
/// has a smaller index.
///
/// # Errors
/// [`Broke`] with [W1](kv_core::contract::CLAUSES#W1) for indices of writes, [R1](kv_core::contract::CLAUSES#R1) for
/// reads.
pub fn judge_order(records: &[Record]) -> Judgement {
    one_value_an_index(records)?;
    let indexed: Vec<(&Record, u64, bool)> = records
        .iter()
        .filter_map(|record| match &record.outcome {
            Outcome::Wrote(index) => Some((record, *index, true)),
            Outcome::Found(value) => Some((record, value.index, false)),
            _ => None,
        })
        .collect();
    let mut by_end = indexed.clone();
    by_end.sort_by_key(|(record, ..)| record.ended);
    let mut ended = by_end.into_iter().peekable();
    let mut newest_write: Option<(&Record, u64)> = None;
    let mut newest_of_key: HashMap<&str, (&Record, u64)> = HashMap::new();
    // In the order of their beginnings, each operation is compared with the largest index of those that had ended
    // before.
    for (record, index, is_write) in indexed {
        if index == 0 {
            return Err(Broke::new(if is_write { "W1" } else { "R1" }, format!("index 0: {record}")));
        }
        while let Some((before, index, is_write)) = ended.next_if(|(before, ..)| before.ended < record.began) {
            if is_write && newest_write.is_none_or(|(_, newest)| newest < index) {
                newest_write = Some((before, index));
            }
            let newest = newest_of_key.entry(&before.key).or_insert((before, index));
            if newest.1 < index {
                *newest = (before, index);
            }
        }
        if let Some((before, newest)) = newest_of_key.get(&*record.key)
            && (index < *newest || (is_write && index == *newest))
        {
            let clause = if is_write { "W1" } else { "R1" };
            return Err(Broke::new(
                clause,
                format!("the later of these has not the greater index:\n{before}\n{record}"),
            ));
        }
        if let Some((before, newest)) = newest_write
            && is_write
            && index < newest
        {
            return Err(Broke::new("W1", format!("the later of these has the smaller index:\n{before}\n{record}")));
        }
    }
    Ok(())
}

/// No index of a key belongs to two values, and no two writes of a key share an index.
fn one_value_an_index(records: &[Record]) -> Judgement {
    let mut values: HashMap<(&str, u64), (&Bytes, &Record)> = HashMap::new();
    let mut writes: HashMap<(&str, u64), &Record> = HashMap::new();
    for record in records {
        let (index, data) = match (&record.outcome, &record.op) {
            (Outcome::Found(value), _) => (value.index, &value.data),
            (Outcome::Wrote(index), Op::Set(data)) => (*index, data),
            (Outcome::Wrote(index), Op::Update(value)) => (*index, &value.data),
            _ => continue,
        };
        let (first, other) = *values.entry((&record.key, index)).or_insert((data, record));
        if first != data {
            return Err(Broke::new("W1", format!("two values have index {index}:\n{other}\n{record}")));
        }
        if matches!(record.outcome, Outcome::Wrote(_))
            && let Some(other) = writes.insert((&record.key, index), record)
        {
            return Err(Broke::new("W1", format!("two writes have index {index}:\n{other}\n{record}")));
        }
    }
    Ok(())
}

/// Judges races: from one index of a key, at most one update or removal succeeds.
///
/// Updates and removals at index 0 are left out, because a key may be created many times.
///
/// # Errors
/// [`Broke`] with [W2](kv_core::contract::CLAUSES#W2), or [W3](kv_core::contract::CLAUSES#W3) if both winners are
/// removals.
pub fn judge_winners(records: &[Record]) -> Judgement {
    let mut winners: BTreeMap<(&str, u64), &Record> = BTreeMap::new();
    for record in records {
        let from = match (&record.op, &record.outcome) {
            (Op::Update(value), Outcome::Wrote(_)) => value.index,
            (Op::Remove(index), Outcome::Deleted) => *index,
            _ => continue,
        };
        if from == 0 {
            continue;
        }
        if let Some(other) = winners.insert((&record.key, from), record) {
            let removals = [other, record].iter().all(|record| matches!(record.op, Op::Remove(_)));
            let clause = if removals { "W3" } else { "W2" };
            return Err(Broke::new(clause, format!("both of these won from index {from}:\n{other}\n{record}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::history::by_hand::*;
    use super::*;

    fn broken(records: &[Record]) -> Option<&'static str> {
        judge_order(records).err().and_then(|broke| broke.clause)
    }

    #[test]
    fn indices_that_grow_with_time_are_right() {
        let other_key = Record { key: "other".into(), ..set(8, 9, "o", 7) };
        let overlapping = [set(0, 3, "a", 5), set(1, 2, "b", 4), get(4, 5, "a", 5), get(6, 7, "a", 5), other_key];
        assert_eq!(judge_order(&overlapping), Ok(()));
        assert_eq!(judge_order(&[]), Ok(()));
    }

    #[test]
    fn a_later_write_needs_a_greater_index() {
        assert_eq!(broken(&[set(0, 1, "a", 5), set(2, 3, "b", 4)]), Some("W1"));
        assert_eq!(broken(&[set(0, 1, "a", 5), set(2, 3, "b", 5)]), Some("W1"));
        assert_eq!(broken(&[set(0, 1, "a", 0)]), Some("W1"));
        let elsewhere = Record { key: "other".into(), ..set(2, 3, "b", 4) };
        assert_eq!(broken(&[set(0, 1, "a", 5), elsewhere.clone()]), Some("W1"));
        let shared = Record { outcome: Outcome::Wrote(5), ..elsewhere };
        assert_eq!(broken(&[set(0, 1, "a", 5), shared]), None, "writes of different keys may share an index");
    }

    #[test]
    fn a_later_read_is_not_older() {
        assert_eq!(broken(&[set(0, 1, "a", 4), set(2, 3, "b", 5), get(4, 5, "a", 4)]), Some("R1"));
        assert_eq!(broken(&[set(0, 1, "a", 4), set(2, 9, "b", 5), get(3, 4, "b", 5), get(5, 6, "a", 4)]), Some("R1"));
        assert_eq!(broken(&[set(0, 1, "a", 4), set(2, 5, "b", 5), get(3, 4, "a", 4)]), None, "the write had not ended");
    }

    #[test]
    fn an_index_stands_for_one_value() {
        assert_eq!(broken(&[set(0, 9, "a", 4), get(1, 2, "b", 4)]), Some("W1"));
        assert_eq!(broken(&[set(0, 9, "a", 4), set(1, 2, "a", 4)]), Some("W1"));
    }

    #[test]
    fn one_index_has_one_winner() {
        let first = update(0, 5, 3, "a", 4);
        let clause = |records: &[Record]| judge_winners(records).err().and_then(|broke| broke.clause);
        assert_eq!(clause(&[first.clone(), conflict(1, 2, 3), update(6, 7, 4, "b", 5)]), None);
        assert_eq!(clause(&[first.clone(), update(1, 6, 3, "b", 5)]), Some("W2"));
        let removal = record(1, 6, Op::Remove(3), Outcome::Deleted);
        assert_eq!(clause(&[first, removal.clone()]), Some("W2"));
        assert_eq!(clause(&[removal.clone(), removal]), Some("W3"));
        assert_eq!(clause(&[update(0, 1, 0, "a", 4), delete(2, 3), update(4, 5, 0, "b", 6)]), None);
    }
}
