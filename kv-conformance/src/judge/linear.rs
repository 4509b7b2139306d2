//! Whether a history of one key is linearizable: Wing and Gong's search, with Lowe's cache of visited states.
//!
//! The search places operations one after another. An operation may come next if no other operation that is left had
//! ended before it began. Two cuts keep the search small, and neither loses a solution. Writes whose index is known are
//! placed in the order of their indices, because each index has one place in a key's history. A read or a refusal that
//! fits the state is placed at once: it changes nothing, so placing it later cannot help any other operation.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use kv_core::Value;

use super::{Op, Outcome, Record};

/// The result of the search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Linearizability {
    /// Some order of the operations explains every answer.
    Linearizable,
    /// No order explains every answer. Contains what the longest attempt could not place.
    Not {
        /// The number of operations that the longest attempt placed.
        placed: usize,
        /// The operations that could have come next by their times, but did not fit.
        stuck: Vec<Record>,
    },
    /// The search reached its bound. The history is too large to judge.
    Undecided,
}

/// Searches for an order of the operations of *one* key that explains every answer, in at most `steps` steps.
///
/// The key begins absent. Every value that is written must be unique. Operations of unknown outcome may have been
/// applied at any time after they began, or never.
pub fn linearizable(records: &[Record], steps: usize) -> Linearizability {
    let search = Search::new(records);
    let mut pending = vec![Node { placed: Bits::new(search.operations.len()), state: None }];
    let mut tried: HashSet<Node> = HashSet::new();
    let mut longest: Option<Node> = None;
    for _ in 0..steps {
        let Some(mut node) = pending.pop() else {
            let longest = longest.unwrap_or(Node { placed: Bits::new(search.operations.len()), state: None });
            let stuck = search.candidates(&longest.placed);
            let stuck = stuck.into_iter().map(|at| search.operations[at].record.clone()).collect();
            return Linearizability::Not { placed: longest.placed.count(), stuck };
        };
        let candidates = search.take_what_changes_nothing(&mut node);
        if search.is_done(&node.placed) {
            return Linearizability::Linearizable;
        }
        if !tried.insert(node.clone()) {
            continue;
        }
        for at in candidates.into_iter().rev() {
            if let Some(state) = search.operations[at].applied(&node.state) {
                let mut placed = node.placed.clone();
                placed.set(at);
                pending.push(Node { placed, state });
            }
        }
        if longest.as_ref().is_none_or(|longest| longest.placed.count() < node.placed.count()) {
            longest = Some(node);
        }
    }
    Linearizability::Undecided
}

/// A value and its index. The index is 0 if it is not known, because no client has read the value.
type State = Option<(Bytes, u64)>;

#[derive(Clone, PartialEq, Eq, Hash)]
struct Node {
    placed: Bits,
    state: State,
}

/// An operation, prepared for the search.
struct Operation<'a> {
    record: &'a Record,
    /// The moment by which it must have taken effect; `u64::MAX` if it may never have been applied.
    by: u64,
    /// The index of the value that it writes; 0 if not known.
    index: u64,
}

struct Search<'a> {
    /// In the order in which they began.
    operations: Vec<Operation<'a>>,
    /// Writes whose index is known, in the order of their indices.
    writes: Vec<usize>,
}

impl<'a> Search<'a> {
    fn new(records: &'a [Record]) -> Self {
        // If the value of a write of unknown outcome was read, its index is known.
        let mut read: HashMap<&Bytes, u64> = HashMap::new();
        for record in records {
            if let Outcome::Found(value) = &record.outcome {
                read.insert(&value.data, value.index);
            }
        }
        let mut operations: Vec<_> = records
            .iter()
            .filter(|record| {
                !matches!((&record.op, &record.outcome), (_, Outcome::NotApplied) | (Op::Get, Outcome::Unknown))
            })
            .map(|record| {
                let by = if record.outcome == Outcome::Unknown { u64::MAX } else { record.ended };
                let index = match (&record.op, &record.outcome) {
                    (_, Outcome::Wrote(index)) => *index,
                    (Op::Set(data) | Op::Update(Value { data, .. }), Outcome::Unknown) => {
                        read.get(data).copied().unwrap_or_default()
                    }
                    _ => 0,
                };
                Operation { record, by, index }
            })
            .collect();
        operations.sort_by_key(|operation| operation.record.began);
        let mut writes: Vec<_> = (0..operations.len()).filter(|at| operations[*at].index > 0).collect();
        writes.sort_by_key(|at| operations[*at].index);
        Self { operations, writes }
    }

    /// The operations that may come next: no other one that is left had ended before they began, and no write with a
    /// smaller index is left.
    fn candidates(&self, placed: &Bits) -> Vec<usize> {
        let next_write = self.writes.iter().copied().find(|at| !placed.get(*at));
        let mut candidates = Vec::new();
        let mut earliest_end = u64::MAX;
        for (at, operation) in self.operations.iter().enumerate() {
            if placed.get(at) {
                continue;
            }
            if operation.record.began > earliest_end {
                break;
            }
            earliest_end = earliest_end.min(operation.by);
            if operation.index == 0 || next_write == Some(at) {
                candidates.push(at);
            }
        }
        candidates
    }

    /// Places every operation that fits and changes nothing, until none is left. Returns the operations that may come
    /// next.
    fn take_what_changes_nothing(&self, node: &mut Node) -> Vec<usize> {
        loop {
            let candidates = self.candidates(&node.placed);
            let fitting = candidates.iter().copied().find(|at| self.operations[*at].fits(&node.state));
            match fitting {
                Some(at) => node.placed.set(at),
                None => return candidates,
            }
        }
    }

    /// Whether every operation that is left may never have been applied.
    fn is_done(&self, placed: &Bits) -> bool {
        self.operations.iter().enumerate().all(|(at, operation)| placed.get(at) || operation.by == u64::MAX)
    }
}

impl Operation<'_> {
    /// Whether the operation changes nothing and its answer is right in this state.
    fn fits(&self, state: &State) -> bool {
        match (&self.record.op, &self.record.outcome) {
            (Op::Get, Outcome::Found(value)) => {
                state.as_ref().is_some_and(|(data, index)| *data == value.data && *index == value.index)
            }
            (Op::Get, Outcome::Absent) | (Op::Remove(0), Outcome::Deleted) => state.is_none(),
            (Op::Update(Value { index, .. }) | Op::Remove(index), Outcome::Conflict) => !holds(state, *index),
            _ => false,
        }
    }

    /// The state after the operation, if its answer is right in this state.
    fn applied(&self, state: &State) -> Option<State> {
        match (&self.record.op, &self.record.outcome) {
            (Op::Set(data), Outcome::Wrote(_) | Outcome::Unknown) => Some(Some((data.clone(), self.index))),
            (Op::Update(value), Outcome::Wrote(_) | Outcome::Unknown) if holds(state, value.index) => {
                Some(Some((value.data.clone(), self.index)))
            }
            (Op::Delete, Outcome::Deleted | Outcome::Unknown) => Some(None),
            (Op::Remove(index), Outcome::Deleted | Outcome::Unknown) if *index > 0 && holds(state, *index) => {
                Some(None)
            }
            _ => None,
        }
    }
}

/// Whether a check of this index succeeds.
fn holds(state: &State, index: u64) -> bool {
    match state {
        None => index == 0,
        Some((_, current)) => index > 0 && *current == index,
    }
}

/// A set of operations.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Bits(Vec<u64>);

impl Bits {
    fn new(length: usize) -> Self {
        Self(vec![0; length.div_ceil(64)])
    }

    fn get(&self, at: usize) -> bool {
        self.0[at / 64] & (1 << (at % 64)) != 0
    }

    fn set(&mut self, at: usize) {
        self.0[at / 64] |= 1 << (at % 64);
    }

    fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::super::history::by_hand::*;
    use super::*;

    fn is_linearizable(records: &[Record]) -> bool {
        match linearizable(records, 1_000_000) {
            Linearizability::Linearizable => true,
            Linearizability::Not { .. } => false,
            Linearizability::Undecided => panic!("a few operations are always decided"),
        }
    }

    fn unknown(began: u64, data: &'static str) -> Record {
        record(began, began + 1, Op::Set(data.into()), Outcome::Unknown)
    }

    #[test]
    fn sequential_histories() {
        assert!(is_linearizable(&[]));
        assert!(is_linearizable(&[absent(0, 1), set(2, 3, "a", 5), get(4, 5, "a", 5), delete(6, 7), absent(8, 9)]));
        assert!(is_linearizable(&[set(0, 1, "a", 5), update(2, 3, 5, "b", 6), conflict(4, 5, 5), get(6, 7, "b", 6)]));
        assert!(!is_linearizable(&[get(0, 1, "a", 5)]), "read from nowhere");
        assert!(!is_linearizable(&[set(0, 1, "a", 5), absent(2, 3)]), "a lost write");
        assert!(!is_linearizable(&[set(0, 1, "a", 5), set(2, 3, "b", 6), get(4, 5, "a", 5)]), "a stale read");
        assert!(!is_linearizable(&[set(0, 1, "a", 5), delete(2, 3), get(4, 5, "a", 5)]), "a deletion undone");
    }

    #[test]
    fn compare_and_swap() {
        let lost = [set(0, 1, "a", 5), update(2, 6, 5, "b", 6), update(3, 7, 5, "c", 7)];
        assert!(!is_linearizable(&lost), "two won from one index");
        assert!(!is_linearizable(&[set(0, 1, "a", 5), conflict(2, 3, 5)]), "refused though the index was right");
        assert!(!is_linearizable(&[set(0, 1, "a", 5), update(2, 3, 0, "b", 6)]), "created what existed");
        assert!(is_linearizable(&[set(0, 1, "a", 5), delete(2, 9), update(3, 8, 0, "b", 6)]));
        let removal = |index, outcome| record(2, 3, Op::Remove(index), outcome);
        assert!(is_linearizable(&[set(0, 1, "a", 5), removal(5, Outcome::Deleted), absent(4, 5)]));
        assert!(!is_linearizable(&[set(0, 1, "a", 5), removal(5, Outcome::Conflict)]));
        assert!(!is_linearizable(&[set(0, 1, "a", 5), removal(4, Outcome::Deleted)]));
        assert!(is_linearizable(&[removal(0, Outcome::Deleted)]));
        assert!(!is_linearizable(&[set(0, 1, "a", 5), removal(0, Outcome::Deleted)]));
    }

    #[test]
    fn concurrent_operations_may_come_in_any_order() {
        assert!(is_linearizable(&[set(0, 9, "a", 6), set(1, 8, "b", 5), get(2, 3, "b", 5), get(4, 5, "a", 6)]));
        assert!(!is_linearizable(&[set(0, 9, "a", 6), set(1, 8, "b", 5), get(2, 3, "a", 6), get(4, 5, "b", 5)]));
        assert!(is_linearizable(&[set(0, 9, "a", 5), absent(1, 2), get(3, 4, "a", 5)]));
        assert!(!is_linearizable(&[set(0, 9, "a", 5), get(1, 2, "a", 5), absent(3, 4)]), "seen, then unseen");
    }

    #[test]
    fn what_is_unknown_may_have_been_applied_late_or_never() {
        assert!(is_linearizable(&[unknown(0, "a"), absent(2, 3)]));
        assert!(is_linearizable(&[unknown(0, "a"), get(2, 3, "a", 5)]));
        assert!(is_linearizable(&[unknown(0, "a"), absent(2, 3), get(4, 5, "a", 5)]));
        assert!(!is_linearizable(&[unknown(0, "a"), get(2, 3, "a", 5), absent(4, 5)]));
        assert!(is_linearizable(&[set(0, 1, "a", 5), unknown(2, "b"), conflict(4, 5, 5)]), "unread, but in the way");
        let deletion = record(2, 3, Op::Delete, Outcome::Unknown);
        assert!(is_linearizable(&[set(0, 1, "a", 5), deletion.clone(), get(4, 5, "a", 5), absent(6, 7)]));
        assert!(!is_linearizable(&[set(0, 1, "a", 5), deletion, absent(4, 5), get(6, 7, "a", 5)]));
    }

    #[test]
    fn what_was_not_applied_does_not_count() {
        let refused = record(0, 1, Op::Set("a".into()), Outcome::NotApplied);
        assert!(is_linearizable(&[refused.clone(), absent(2, 3)]));
        assert!(!is_linearizable(&[refused, get(2, 3, "a", 5)]));
    }

    #[test]
    fn a_failure_tells_where_it_is_stuck() {
        let records = [set(0, 1, "a", 5), set(2, 3, "b", 6), get(4, 5, "a", 5)];
        let stuck = Linearizability::Not { placed: 2, stuck: vec![records[2].clone()] };
        assert_eq!(linearizable(&records, 1000), stuck);
        assert_eq!(linearizable(&records, 1), Linearizability::Undecided);
    }

    /// A history of a correct store, with operations that overlap like those of eight clients.
    fn simulated(operations: usize) -> Vec<Record> {
        let (mut state, mut index): (State, u64) = (None, 0);
        let mut seed = 1_u64;
        let mut random = move || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            seed >> 33
        };
        (0..operations as u64)
            .map(|number| {
                let data = Bytes::from(number.to_string());
                let current = state.as_ref().map_or(0, |(_, index)| *index);
                index += 1;
                let (op, outcome) = match random() % 5 {
                    0 => (Op::Set(data.clone()), Outcome::Wrote(index)),
                    1 if random() % 2 == 0 => (Op::Update(Value::new(data.clone(), current)), Outcome::Wrote(index)),
                    1 => (Op::Update(Value::new(data.clone(), u64::MAX)), Outcome::Conflict),
                    2 => (Op::Delete, Outcome::Deleted),
                    _ => match &state {
                        Some((data, index)) => (Op::Get, Outcome::Found(Value::new(data.clone(), *index))),
                        None => (Op::Get, Outcome::Absent),
                    },
                };
                match (&op, &outcome) {
                    (_, Outcome::Wrote(_)) => state = Some((data, index)),
                    (Op::Delete, _) => state = None,
                    _ => {}
                }
                // The operation takes effect at 100 times its number. It begins before that and ends after it.
                let at = number * 100 + 1000;
                let client = usize::try_from(number % 8).unwrap_or_default();
                let (began, ended) = (at - random() % 350, at + 1 + random() % 350);
                Record { client, key: "k".into(), op, outcome, began, ended }
            })
            .collect()
    }

    #[test]
    fn long_histories_are_decided() {
        let good = simulated(400);
        assert_eq!(linearizable(&good, 1_000_000), Linearizability::Linearizable);

        let mut stale = good;
        let old = stale.iter().find_map(|record| match &record.outcome {
            Outcome::Found(value) => Some(value.clone()),
            _ => None,
        });
        let last = stale.iter_mut().rev().find(|record| matches!(record.outcome, Outcome::Found(_)));
        last.expect("a read").outcome = Outcome::Found(old.expect("a read"));
        assert!(matches!(linearizable(&stale, 1_000_000), Linearizability::Not { .. }), "a stale read");
    }
}
