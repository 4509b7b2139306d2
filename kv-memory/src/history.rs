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

    /// The most bytes that the record takes, without the value that it replaced. The data is often shared with the
    /// entry.
    fn bytes(&self) -> usize {
        /// The allocations of the key and the data, and the record's part of its commit.
        const OVERHEAD: usize = 96;
        size_of::<Self>() + OVERHEAD + self.key.capacity() + self.data.len()
    }

    /// The most bytes that the replaced value takes.
    fn previous_bytes(&self) -> usize {
        self.previous.as_ref().map_or(0, |value| value.data.len())
    }
}

/// The records of the latest commits. Every record has a position; the first one ever has position 1.
///
/// It is bounded in number and in bytes, by whole commits: it keeps the fewest of the latest commits that reach one of
/// the bounds. So a commit of any size stays until as much has followed it, and a watch has that long to read it.
pub(crate) struct History {
    records: VecDeque<Record>,
    commits: VecDeque<Commit>,
    limit: usize,
    bytes: usize,
    /// How many of the records at the front are dropped but not freed yet. Those of a large commit are freed in pieces.
    dropped: usize,
    /// The position of the oldest record that is kept, or of the next one if there is none.
    begin: u64,
    /// The index of the latest record that was dropped.
    compacted: u64,
    /// The position of the oldest record that still has the value that it replaced.
    undoable: u64,
}

/// The records of one index.
struct Commit {
    index: u64,
    records: usize,
    bytes: usize,
}

impl History {
    pub(crate) const DEFAULT_EVENTS: usize = 10_000;
    const MAX_BYTES: usize = 64 << 20;
    /// How many dropped records are freed with each new one.
    const FREED_AT_ONCE: usize = 16;

    pub(crate) fn new(limit: usize) -> Self {
        let (records, commits) = (VecDeque::new(), VecDeque::new());
        Self { records, commits, limit, bytes: 0, dropped: 0, begin: 1, compacted: 0, undoable: 1 }
    }

    pub(crate) fn push(&mut self, record: Record) {
        let bytes = record.bytes();
        self.bytes += bytes + record.previous_bytes();
        match self.commits.back_mut() {
            Some(commit) if commit.index == record.index => {
                commit.records += 1;
                commit.bytes += bytes;
            }
            _ => self.commits.push_back(Commit { index: record.index, records: 1, bytes }),
        }
        self.records.push_back(record);
        self.forget_replaced();
        self.drop_commits();
        for _ in 0..self.dropped.min(Self::FREED_AT_ONCE) {
            self.records.pop_front();
            self.dropped -= 1;
        }
    }

    /// Forgets what the oldest records replaced while there is too much: only listings that are being read need it.
    fn forget_replaced(&mut self) {
        while self.bytes > Self::MAX_BYTES && self.undoable < self.end() {
            let place = self.place(self.undoable);
            if let Some(record) = place.and_then(|place| self.records.get_mut(place)) {
                self.bytes -= record.previous_bytes();
                record.previous = None;
            }
            self.undoable += 1;
        }
    }

    fn drop_commits(&mut self) {
        while self.commits.len() > 1
            && let Some(oldest) = self.commits.front()
            && (self.len() - oldest.records >= self.limit || self.bytes - oldest.bytes >= Self::MAX_BYTES)
        {
            let (index, records) = (oldest.index, oldest.records);
            self.bytes -= oldest.bytes;
            let end = self.begin + records as u64;
            for position in self.undoable.max(self.begin)..end {
                let record = self.place(position).and_then(|place| self.records.get(place));
                self.bytes -= record.map_or(0, Record::previous_bytes);
            }
            self.dropped += records;
            self.begin = end;
            self.undoable = self.undoable.max(end);
            self.compacted = index;
            self.commits.pop_front();
        }
    }

    /// How many records are kept.
    fn len(&self) -> usize {
        self.records.len() - self.dropped
    }

    /// Where the record of a position is, or will be; `None` if it was dropped.
    fn place(&self, position: u64) -> Option<usize> {
        let offset = usize::try_from(position.checked_sub(self.begin)?).ok()?;
        Some(self.dropped + offset.min(self.len()))
    }

    /// The position of the next record.
    pub(crate) fn end(&self) -> u64 {
        self.begin + self.len() as u64
    }

    /// The smallest index after which every event is still kept.
    pub(crate) fn compacted(&self) -> u64 {
        self.compacted
    }

    /// The position of the first record with an index above `after`.
    pub(crate) fn position_after(&self, after: u64) -> u64 {
        let place = self.records.partition_point(|record| record.index <= after);
        self.begin + place.saturating_sub(self.dropped) as u64
    }

    /// The records from a position on, each with its position; `None` if some of them were dropped.
    pub(crate) fn from(
        &self,
        position: u64,
    ) -> Option<impl DoubleEndedIterator<Item = (u64, &Record)> + ExactSizeIterator> {
        let place = self.place(position)?;
        let (begin, dropped) = (self.begin, self.dropped);
        let number = move |(place, record)| (begin + (place - dropped) as u64, record);
        Some(self.records.iter().enumerate().skip(place).map(number))
    }

    /// As [`from`](Self::from), with the values that the records replaced; `None` if some of these are forgotten.
    pub(crate) fn undo_to(&self, position: u64) -> Option<impl Iterator<Item = &Record>> {
        let records = self.from(position).filter(|_| position >= self.undoable)?;
        Some(records.rev().map(|(_, record)| record))
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
        assert_eq!(history.len(), 2);
        history.push(record(11, History::MAX_BYTES * 2));
        assert_eq!((history.len(), history.compacted()), (1, 10));
    }

    #[test]
    fn a_commit_of_any_size_stays_until_as_much_has_followed() {
        let mut history = History::new(3);
        for _ in 0..10 {
            history.push(record(1, 0));
        }
        assert_eq!(history.from(1).expect("kept").len(), 10);
        for index in 2..4 {
            history.push(record(index, 0));
        }
        assert_eq!((history.from(1).expect("kept").len(), history.compacted()), (12, 0));
        history.push(record(4, 0));
        assert_eq!((history.len(), history.begin, history.compacted()), (3, 11, 1));
        assert!(history.from(10).is_none());
        assert_eq!(history.position_after(0), 11);
        assert_eq!(history.from(12).expect("kept").map(|(_, record)| record.index).collect::<Vec<_>>(), [3, 4]);
    }

    #[test]
    fn values_that_a_large_commit_replaced_are_forgotten_and_its_events_are_kept() {
        const EACH: usize = History::MAX_BYTES / 4;
        let mut history = History::new(100);
        history.push(record(1, 0));
        for _ in 0..8 {
            let previous = Some(Value::new(vec![0; EACH], 1));
            history.push(Record { previous, ..record(2, 0) });
        }
        assert!(history.bytes <= History::MAX_BYTES, "{}", history.bytes);
        assert_eq!(history.from(1).expect("kept").len(), 9);
        assert!(history.undo_to(1).is_none() && history.undo_to(2).is_none());
        let undone = history.undo_to(history.undoable).expect("the latest are not forgotten");
        assert!(undone.filter(|record| record.previous.is_some()).count() > 0);
        for index in 3..200 {
            history.push(record(index, 0));
        }
        let left: usize = history.records.iter().map(|record| record.bytes() + record.previous_bytes()).sum();
        assert_eq!((history.len(), history.dropped, history.bytes), (100, 0, left));
    }

    #[test]
    fn small_records_are_bounded_by_bytes() {
        let mut history = History::new(usize::MAX);
        for index in 1..=1_000_000 {
            history.push(record(index, 0));
        }
        assert!(history.records.capacity() * size_of::<Record>() <= 2 * History::MAX_BYTES);
        assert!(history.bytes < History::MAX_BYTES + 1000);
    }
}
