//! The latest changes of a store: for watches that begin in the past, and for snapshots that are read in pieces.

use std::collections::VecDeque;

use bytes::Bytes;
use kv_core::{Event, EventType, Value};

/// One change of one key, with the value that it replaced.
pub(crate) struct Record {
    pub(crate) key: String,
    pub(crate) event_type: EventType,
    pub(crate) data: Bytes,
    pub(crate) index: u64,
    pub(crate) previous: Option<Value>,
}

impl Record {
    pub(crate) fn event(&self) -> Event {
        Event { key: self.key.clone(), event_type: self.event_type, data: self.data.clone(), index: self.index }
    }

    /// The most memory that it takes: the previous data is often shared with an older record.
    fn bytes(&self) -> usize {
        self.key.len() + self.data.len() + self.previous.as_ref().map_or(0, |value| value.data.len())
    }
}

/// A ring of records, bounded in number and in bytes. Every record has a position; the first one ever has position 1.
pub(crate) struct History {
    records: VecDeque<Record>,
    limit: usize,
    bytes: usize,
    /// The position of the oldest record, or of the next one if there is none.
    begin: u64,
    /// The index of the latest record that was dropped.
    compacted: u64,
}

impl History {
    pub(crate) const DEFAULT_EVENTS: usize = 10_000;
    const MAX_BYTES: usize = 64 << 20;

    pub(crate) fn new(limit: usize) -> Self {
        Self { records: VecDeque::new(), limit, bytes: 0, begin: 1, compacted: 0 }
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    pub(crate) fn push(&mut self, record: Record) {
        self.bytes += record.bytes();
        self.records.push_back(record);
        // The latest stays, however large it is: a watch that keeps up sees every change.
        while self.records.len() > self.limit || (self.bytes > Self::MAX_BYTES && self.records.len() > 1) {
            let Some(oldest) = self.records.pop_front() else { break };
            self.bytes -= oldest.bytes();
            self.compacted = oldest.index;
            self.begin += 1;
        }
    }

    /// The position of the next record.
    pub(crate) fn end(&self) -> u64 {
        self.begin + self.records.len() as u64
    }

    /// The smallest index after which every event is still kept.
    pub(crate) fn compacted(&self) -> u64 {
        self.compacted
    }

    /// The position of the first record with an index above `after`.
    pub(crate) fn position_after(&self, after: u64) -> u64 {
        self.begin + self.records.partition_point(|record| record.index <= after) as u64
    }

    /// The records from a position on, each with its position; `None` if some of them were dropped.
    pub(crate) fn from(
        &self,
        position: u64,
    ) -> Option<impl DoubleEndedIterator<Item = (u64, &Record)> + ExactSizeIterator> {
        let skipped = usize::try_from(position.checked_sub(self.begin)?).ok()?.min(self.records.len());
        let begin = self.begin;
        let number = move |(offset, record)| (begin + offset as u64, record);
        Some(self.records.iter().enumerate().skip(skipped).map(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(index: u64, bytes: usize) -> Record {
        let data = Bytes::from(vec![0; bytes]);
        Record { key: String::new(), event_type: EventType::Update, data, index, previous: None }
    }

    #[test]
    fn the_oldest_records_are_dropped_first_and_the_gap_is_noticed() {
        let mut history = History::new(3);
        for index in 1..=5 {
            history.push(record(index * 10, 0));
        }
        assert_eq!((history.compacted(), history.begin, history.end()), (20, 3, 6));
        assert!(history.from(2).is_none());
        let kept: Vec<_> = history.from(3).expect("kept").map(|(position, record)| (position, record.index)).collect();
        assert_eq!(kept, [(3, 30), (4, 40), (5, 50)]);
        assert_eq!(history.position_after(30), 4);
        assert_eq!(history.position_after(50), history.end());
        assert_eq!(history.from(history.end()).expect("nothing yet").len(), 0);
    }

    #[test]
    fn large_records_are_bounded_by_bytes_but_one_always_stays() {
        let mut history = History::new(100);
        for index in 1..=10 {
            history.push(record(index, History::MAX_BYTES / 2));
        }
        assert_eq!(history.records.len(), 2);
        history.push(record(11, History::MAX_BYTES * 2));
        assert_eq!((history.records.len(), history.compacted()), (1, 10));
    }
}
