//! Compares what a watch delivered with what was written.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use kv_core::{Event, EventType, Value, WatchHistory};
use serde::{Deserialize, Serialize};

use super::{Judgement, text};
use crate::outcome::Broke;

/// A write that a store has acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The key that was written.
    pub key: String,
    /// The data that was written.
    #[serde(with = "text")]
    pub data: Bytes,
    /// The index of the write.
    pub index: u64,
}

/// The changes that a watch must have delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Completeness {
    /// Every change.
    Every,
    /// The last state of each key.
    Latest,
}

impl From<WatchHistory> for Completeness {
    fn from(history: WatchHistory) -> Self {
        match history {
            WatchHistory::Every => Self::Every,
            WatchHistory::Latest => Self::Latest,
        }
    }
}

/// Judges the events of a watch that began at the state `before` and was read until the state was `after`.
///
/// `changes` are the acknowledged writes in between, in any order. These properties are checked:
/// - *Ordered* and *atomic*: indices never go backwards, and events of one index are together
///   ([E2](kv_core::contract::CLAUSES#E2)).
/// - *Unique*: no event comes twice ([E4](kv_core::contract::CLAUSES#E4)).
/// - *True*: types and data are right ([E2](kv_core::contract::CLAUSES#E2)).
/// - *Complete*: every change is there, or the last state of each key ([E1](kv_core::contract::CLAUSES#E1),
///   [E3](kv_core::contract::CLAUSES#E3)).
///
/// # Errors
/// [`Broke`] with the clause of the property.
pub fn judge_events(
    before: &BTreeMap<String, Value>,
    events: &[Event],
    changes: &[Change],
    after: &BTreeMap<String, Value>,
    completeness: Completeness,
) -> Judgement {
    ordered_and_unique(events)?;
    let shown = replayed(before, events)?;
    true_to_the_writes(events, changes)?;
    if shown != *after {
        let differing = after.keys().chain(shown.keys()).find(|key| after.get(*key) != shown.get(*key));
        let key = differing.map(String::as_str).unwrap_or_default();
        let (delivered, stored) = (shown.get(key), after.get(key));
        return Err(Broke::new(
            "E3",
            format!("the events leave {key:?} at {delivered:?}, and the store has {stored:?}"),
        ));
    }
    if completeness == Completeness::Every {
        let delivered: HashSet<(&str, u64)> = events.iter().map(|event| (&*event.key, event.index)).collect();
        if let Some(missing) = changes.iter().find(|change| !delivered.contains(&(&*change.key, change.index))) {
            return Err(Broke::new("E1", format!("no event tells of {missing:?}")));
        }
    }
    Ok(())
}

fn ordered_and_unique(events: &[Event]) -> Judgement {
    let mut seen: HashSet<(&str, EventType, u64)> = HashSet::new();
    for (place, event) in events.iter().enumerate() {
        // Checked before the order, because an event that is repeated later is also out of order.
        if !seen.insert((&event.key, event.event_type, event.index)) {
            return Err(Broke::new("E4", format!("delivered twice: {event:?}")));
        }
        if let Some(previous) = place.checked_sub(1).map(|place| &events[place])
            && previous.index > event.index
        {
            return Err(Broke::new("E2", format!("indices go backwards:\n{previous:?}\n{event:?}")));
        }
    }
    Ok(())
}

/// Applies the events to a state. Each event must be possible in the state that it is applied to.
fn replayed(before: &BTreeMap<String, Value>, events: &[Event]) -> Result<BTreeMap<String, Value>, Broke> {
    let mut state = before.clone();
    for event in events {
        let value = Value::new(event.data.clone(), event.index);
        let previous = match event.event_type {
            EventType::Create | EventType::Update => state.insert(event.key.clone(), value),
            EventType::Delete => state.remove(&event.key),
        };
        let possible = (event.event_type == EventType::Create) == previous.is_none();
        if !possible {
            return Err(Broke::new("E2", format!("the key was {previous:?} when this came: {event:?}")));
        }
        if event.event_type == EventType::Delete && !event.data.is_empty() {
            return Err(Broke::new("E2", format!("a deletion carries data: {event:?}")));
        }
    }
    Ok(state)
}

fn true_to_the_writes(events: &[Event], changes: &[Change]) -> Judgement {
    let written: BTreeMap<(&str, u64), &Change> =
        changes.iter().map(|change| ((&*change.key, change.index), change)).collect();
    let untrue = events.iter().filter(|event| event.event_type != EventType::Delete).find_map(|event| {
        let change = written.get(&(&*event.key, event.index))?;
        (change.data != event.data).then_some((event, *change))
    });
    match untrue {
        Some((event, change)) => Err(Broke::new("E2", format!("{event:?} tells of {change:?}"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(event_type: EventType, key: &str, data: &'static str, index: u64) -> Event {
        Event { key: key.into(), event_type, data: data.into(), index }
    }

    /// Two keys are created. Then one is updated, and the other is deleted.
    fn good() -> (Vec<Event>, Vec<Change>, BTreeMap<String, Value>) {
        let events = vec![
            event(EventType::Create, "a", "1", 5),
            event(EventType::Create, "b", "2", 5),
            event(EventType::Update, "a", "3", 6),
            event(EventType::Update, "a", "4", 7),
            event(EventType::Delete, "b", "", 8),
        ];
        let change = |event: &Event| Change { key: event.key.clone(), data: event.data.clone(), index: event.index };
        let changes = events[..4].iter().map(change).collect();
        (events, changes, BTreeMap::from([("a".into(), Value::new("4", 7))]))
    }

    fn broken(tamper: impl FnOnce(&mut Vec<Event>), completeness: Completeness) -> Option<&'static str> {
        let (mut events, changes, after) = good();
        tamper(&mut events);
        judge_events(&BTreeMap::new(), &events, &changes, &after, completeness).err().and_then(|broke| broke.clause)
    }

    #[test]
    fn the_whole_history_is_right() {
        assert_eq!(broken(|_| {}, Completeness::Every), None);
        assert_eq!(broken(|_| {}, Completeness::Latest), None);
    }

    #[test]
    fn a_merged_change_is_right_only_where_that_is_allowed() {
        assert_eq!(broken(|events| drop(events.remove(2)), Completeness::Latest), None);
        assert_eq!(broken(|events| drop(events.remove(2)), Completeness::Every), Some("E1"));
    }

    #[test]
    fn every_kind_of_tampering_is_found() {
        assert_eq!(broken(|events| drop(events.pop()), Completeness::Latest), Some("E3"), "the last event is missing");
        assert_eq!(broken(|events| events.push(events[4].clone()), Completeness::Latest), Some("E4"), "repeated");
        assert_eq!(broken(|events| events.insert(1, events[0].clone()), Completeness::Latest), Some("E4"), "repeated");
        assert_eq!(broken(|events| events.swap(2, 3), Completeness::Latest), Some("E2"), "out of order");
        assert_eq!(broken(|events| events[0].event_type = EventType::Update, Completeness::Latest), Some("E2"));
        assert_eq!(broken(|events| events[2].event_type = EventType::Create, Completeness::Latest), Some("E2"));
        assert_eq!(broken(|events| events[2].data = "9".into(), Completeness::Latest), Some("E2"), "other data");
        assert_eq!(
            broken(|events| events[4].data = "2".into(), Completeness::Latest),
            Some("E2"),
            "data of a deletion"
        );
        assert_eq!(broken(|events| events[3].index = 9, Completeness::Latest), Some("E2"), "index too great");
    }

    #[test]
    fn what_was_there_before_counts() {
        let before = BTreeMap::from([("a".to_owned(), Value::new("0", 1))]);
        let updated = [event(EventType::Update, "a", "1", 2)];
        let after = BTreeMap::from([("a".to_owned(), Value::new("1", 2))]);
        assert_eq!(judge_events(&before, &updated, &[], &after, Completeness::Every), Ok(()));
        let created = [event(EventType::Create, "a", "1", 2)];
        assert!(judge_events(&before, &created, &[], &after, Completeness::Every).is_err());
    }
}
