//! From etcd's events to batches of whole revisions (clause E2).

use kv_core::{Event, EventType};

use crate::proto;
use crate::range::{index, utf8};

/// What etcd sent for one watch at a time, cut so that the events of a revision are in one batch.
pub(crate) struct Batch {
    pub(crate) events: Vec<Event>,
    /// What they take in memory, roughly.
    pub(crate) bytes: usize,
    /// The revision of the last of them.
    pub(crate) last: i64,
}

/// Joins the fragments of one watch.
#[derive(Default)]
pub(crate) struct Joiner {
    /// Events of a revision that may go on in the next fragment.
    held: Vec<proto::Event>,
}

impl Joiner {
    /// Takes what has come, and gives the events from revision `next` on that are complete.
    pub(crate) fn join(&mut self, events: Vec<proto::Event>, more_follow: bool, next: i64) -> Option<Batch> {
        let mut all = std::mem::take(&mut self.held);
        all.extend(events);
        if more_follow {
            let last = all.last().map(revision);
            let complete = all.iter().position(|event| Some(revision(event)) == last).unwrap_or(0);
            self.held = all.split_off(complete);
        }
        // etcd has been known to repeat events after a reconnect; what was delivered is not delivered again.
        all.retain(|event| revision(event) >= next);
        let last = revision(all.last()?);
        let bytes = all.iter().filter_map(|event| event.kv.as_ref()).map(|kv| kv.key.len() + kv.value.len() + 64).sum();
        Some(Batch { events: all.into_iter().filter_map(event).collect(), bytes, last })
    }

    /// Forgets what was not complete: it will come again.
    pub(crate) fn clear(&mut self) {
        self.held.clear();
    }
}

fn revision(event: &proto::Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}

fn event(event: proto::Event) -> Option<Event> {
    let deleted = event.event_type == i32::from(proto::EventType::Delete);
    let kv = event.kv?;
    let event_type = match deleted {
        true => EventType::Delete,
        false if kv.create_revision == kv.mod_revision => EventType::Create,
        false => EventType::Update,
    };
    Some(Event { key: utf8(&kv)?, event_type, index: index(kv.mod_revision), data: kv.value })
}

#[cfg(test)]
mod tests {
    use proto::KeyValue;

    use super::*;

    fn put(key: &'static str, mod_revision: i64) -> proto::Event {
        let kv = KeyValue { key: key.into(), mod_revision, create_revision: 1, ..KeyValue::default() };
        proto::Event { event_type: 0, kv: Some(kv) }
    }

    fn indices(batch: Option<Batch>) -> Vec<u64> {
        batch.map(|batch| batch.events.iter().map(|event| event.index).collect()).unwrap_or_default()
    }

    #[test]
    fn a_revision_that_is_split_comes_whole() {
        let mut joiner = Joiner::default();
        assert_eq!(indices(joiner.join(vec![put("a", 4), put("b", 5)], true, 1)), [4]);
        assert_eq!(indices(joiner.join(vec![put("c", 5)], true, 5)), []);
        assert_eq!(indices(joiner.join(vec![put("d", 5), put("e", 6)], false, 5)), [5, 5, 5, 6]);
        assert_eq!(indices(joiner.join(vec![put("f", 7)], false, 7)), [7]);
    }

    #[test]
    fn what_was_delivered_is_not_repeated() {
        let mut joiner = Joiner::default();
        assert_eq!(indices(joiner.join(vec![put("a", 4), put("b", 5)], false, 5)), [5]);
        assert!(joiner.join(vec![put("a", 4)], false, 6).is_none());
    }

    #[test]
    fn kinds_are_told_by_revisions() {
        let kv = |create_revision| Some(KeyValue { mod_revision: 9, create_revision, ..KeyValue::default() });
        let kind =
            |event_type, create| event(proto::Event { event_type, kv: kv(create) }).map(|event| event.event_type);
        assert_eq!(kind(0, 9), Some(EventType::Create));
        assert_eq!(kind(0, 3), Some(EventType::Update));
        assert_eq!(kind(1, 0), Some(EventType::Delete));
    }
}
