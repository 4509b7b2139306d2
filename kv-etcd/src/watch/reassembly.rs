//! Joins etcd's events to batches of complete revisions ([clause E2](kv_core::contract::CLAUSES#E2)).

use kv_core::{Event, EventType};

use crate::api::messages as proto;
use crate::api::range::{Keys, index};
use crate::api::values::Values;

/// Changes of complete revisions: no revision is split between two batches.
pub(crate) struct Batch {
    pub(crate) changes: Vec<Change>,
    /// Their approximate size in memory, in bytes.
    pub(crate) bytes: usize,
    /// The revision of the last one.
    pub(crate) last: i64,
}

/// A change of a key, entries of locks included.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) event: Event,
    /// The lease of the key after the change; 0: none, or the key was deleted.
    pub(crate) lease: i64,
}

/// The most bytes that the events of one revision may take, approximately.
///
/// etcd sends a large revision in fragments. If the last fragment never came, the others would fill the memory.
const REVISION: usize = 256 << 20;

/// Why events cannot be delivered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// The events are not in the order of their revisions.
    Disordered,
    /// The events of one revision are larger than `REVISION`.
    TooLarge,
}

/// Joins the fragments of one watch.
#[derive(Default)]
pub(crate) struct Reassembly {
    /// The events of a revision that may continue in the next fragment.
    held: Vec<proto::Event>,
    /// Their size in memory, in bytes.
    held_bytes: usize,
}

impl Reassembly {
    /// Adds events, and returns those of complete revisions, from revision `next` on.
    pub(crate) fn join(
        &mut self,
        mut events: Vec<proto::Event>,
        more_follow: bool,
        next: i64,
    ) -> Result<Option<Batch>, Unfit> {
        // etcd may repeat events after a reconnect. Events that were delivered are dropped.
        events.retain(|event| revision(event) >= next);
        if !self.held.last().into_iter().chain(&events).is_sorted_by_key(revision) {
            return Err(Unfit::Disordered);
        }
        self.held_bytes += events.iter().map(bytes).sum::<usize>();
        if self.held.is_empty() {
            self.held = events;
        } else {
            self.held.append(&mut events);
        }
        let Some(last) = self.held.last().map(revision) else { return Ok(None) };
        let complete =
            if more_follow { self.held.partition_point(|event| revision(event) < last) } else { self.held.len() };
        if complete == 0 {
            return if self.held_bytes > REVISION { Err(Unfit::TooLarge) } else { Ok(None) };
        }
        let rest = self.held.split_off(complete);
        let events = std::mem::replace(&mut self.held, rest);
        let held_bytes = self.held.iter().map(bytes).sum();
        let bytes = std::mem::replace(&mut self.held_bytes, held_bytes) - held_bytes;
        let last = events.last().map_or(last, revision);
        let (mut keys, mut values) = (Keys::default(), Values::default());
        // The events of one message share its memory. The size of the batch approximates the size of the messages.
        let mut copied = |kv: &mut proto::KeyValue| {
            if let Some(copy) = values.copy(&kv.value, bytes) {
                kv.value = copy;
            }
        };
        let changes = events.into_iter().filter_map(|one| change(one, &mut keys, &mut copied)).collect();
        keys.done();
        Ok(Some(Batch { changes, bytes, last }))
    }

    /// Drops events of incomplete revisions, because the server sends them again.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

fn revision(event: &proto::Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}

/// The size of an event in memory, in bytes.
fn bytes(event: &proto::Event) -> usize {
    size_of::<proto::Event>() + event.kv.as_ref().map_or(0, |kv| kv.key.len() + kv.value.len())
}

fn change(event: proto::Event, keys: &mut Keys, copied: &mut impl FnMut(&mut proto::KeyValue)) -> Option<Change> {
    let deleted = event.event_type == i32::from(proto::EventType::Delete);
    let mut kv = event.kv?;
    let event_type = match deleted {
        true => EventType::Delete,
        false if kv.create_revision == kv.mod_revision => EventType::Create,
        false => EventType::Update,
    };
    copied(&mut kv);
    let event = Event { key: keys.utf8(&kv)?, event_type, index: index(kv.mod_revision), data: kv.value };
    Some(Change { event, lease: kv.lease })
}

#[cfg(test)]
mod tests {
    use proto::KeyValue;

    use super::*;

    fn put(key: &'static str, mod_revision: i64) -> proto::Event {
        let kv = KeyValue { key: key.into(), mod_revision, create_revision: 1, ..KeyValue::default() };
        proto::Event { event_type: 0, kv: Some(kv) }
    }

    fn indices(batch: Result<Option<Batch>, Unfit>) -> Vec<u64> {
        batch
            .expect("what etcd sends")
            .map(|batch| batch.changes.iter().map(|change| change.event.index).collect())
            .unwrap_or_default()
    }

    #[test]
    fn a_revision_in_fragments_is_delivered_whole() {
        let mut reassembly = Reassembly::default();
        assert_eq!(indices(reassembly.join(vec![put("a", 4), put("b", 5)], true, 1)), [4]);
        assert_eq!(indices(reassembly.join(vec![put("c", 5)], true, 5)), []);
        assert_eq!(indices(reassembly.join(vec![put("d", 5), put("e", 6)], false, 5)), [5, 5, 5, 6]);
        assert_eq!(indices(reassembly.join(vec![put("f", 7)], false, 7)), [7]);
    }

    #[test]
    fn delivered_events_are_not_delivered_again() {
        let mut reassembly = Reassembly::default();
        assert_eq!(indices(reassembly.join(vec![put("a", 4), put("b", 5)], false, 5)), [5]);
        assert_eq!(indices(reassembly.join(vec![put("a", 4)], false, 6)), []);
    }

    #[test]
    fn revisions_do_not_go_backwards() {
        let mut reassembly = Reassembly::default();
        assert_eq!(reassembly.join(vec![put("a", 5), put("b", 4)], false, 1).err(), Some(Unfit::Disordered));
        assert_eq!(indices(reassembly.join(vec![put("a", 5)], true, 1)), []);
        assert_eq!(reassembly.join(vec![put("b", 4)], false, 1).err(), Some(Unfit::Disordered));
        // Negative revisions are dropped, and the largest number is accepted.
        let mut reassembly = Reassembly::default();
        assert_eq!(
            indices(reassembly.join(vec![put("a", i64::MIN), put("b", 0), put("c", i64::MAX)], false, 1)),
            [index(i64::MAX)]
        );
    }

    #[test]
    fn a_revision_without_end_is_refused() {
        let mut reassembly = Reassembly::default();
        let kv = KeyValue { value: vec![0; 1 << 20].into(), mod_revision: 7, ..KeyValue::default() };
        let event = proto::Event { event_type: 0, kv: Some(kv) };
        // The events share one value in this test, but each is counted in full.
        let taken = (0..1000).take_while(|_| reassembly.join(vec![event.clone()], true, 1).is_ok()).count();
        assert_eq!(taken, (REVISION >> 20) - 1);
    }

    #[test]
    fn the_type_of_an_event_follows_from_its_revisions() {
        let kv = |create_revision| Some(KeyValue { mod_revision: 9, create_revision, ..KeyValue::default() });
        let kind = |event_type, create| {
            let event = proto::Event { event_type, kv: kv(create) };
            change(event, &mut Keys::default(), &mut |_| {}).map(|change| change.event.event_type)
        };
        assert_eq!(kind(0, 9), Some(EventType::Create));
        assert_eq!(kind(0, 3), Some(EventType::Update));
        assert_eq!(kind(1, 0), Some(EventType::Delete));
    }

    #[test]
    fn a_small_event_does_not_keep_its_message_in_memory() {
        let message = bytes::Bytes::from(vec![0; 1 << 20]);
        let kv = |value, revision| {
            let kv = KeyValue { key: "k".into(), value, mod_revision: revision, ..KeyValue::default() };
            proto::Event { event_type: 0, kv: Some(kv) }
        };
        let events = vec![kv(message.slice(..200), 4), kv(message.slice(200..), 5)];
        let batch = Reassembly::default().join(events, false, 1).expect("what etcd sends").expect("a batch");
        let shares = |at: usize| message.as_ptr_range().contains(&batch.changes[at].event.data.as_ptr());
        assert!(!shares(0) && shares(1), "only the value that is most of the message shares its memory");
    }
}
