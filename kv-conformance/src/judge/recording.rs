//! A recorded run: everything that the workloads did and saw. It can be judged again from its file.

use std::collections::BTreeMap;
use std::path::Path;

use kv_core::{Event, Value};
use serde::{Deserialize, Serialize};

use super::{
    Audit, Change, Completeness, Judgement, Life, Record, Section, Vanishing, judge_audits, judge_events, judge_lives,
    judge_registers, judge_sections,
};
use crate::outcome::Broke;

/// What the workloads of one run did and saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recording {
    /// A description of the run, for readers of the file.
    pub about: String,
    /// Operations on single keys.
    pub registers: Vec<Record>,
    /// The accounts, and the audits of them.
    pub bank: Bank,
    /// The writes below a prefix, and the observations of them.
    pub watches: Watches,
    /// Critical sections under a lock.
    pub sections: Vec<Section>,
    /// The final value of the counter in these sections.
    pub counter: u64,
    /// The registrations of ephemeral keys.
    pub lives: Vec<Life>,
    /// The deletions of ephemeral keys that an observer saw.
    pub vanishings: Vec<Vanishing>,
}

/// Accounts whose total never changes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Bank {
    /// The number of accounts.
    pub accounts: usize,
    /// The sum of their balances.
    pub total: i64,
    /// The listings of them.
    pub audits: Vec<Audit>,
}

/// The writes below a prefix and what observers saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watches {
    /// The acknowledged writes.
    pub changes: Vec<Change>,
    /// The final state.
    pub last: BTreeMap<String, Value>,
    /// The changes that an observer must see.
    pub completeness: Completeness,
    /// The observations.
    pub observations: Vec<Observation>,
}

/// A listing, and the events after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// The listing.
    pub listing: BTreeMap<String, Value>,
    /// The index of the listing.
    pub index: u64,
    /// The events until the end of the run or of the watch.
    pub events: Vec<Event>,
    /// Whether the watch ended because history was compacted.
    pub compacted: bool,
}

impl Recording {
    /// Judges everything that was recorded.
    ///
    /// # Errors
    /// The first broken clause, with the evidence.
    pub fn judge(&self) -> Judgement {
        judge_registers(&self.registers)?;
        judge_audits(&self.bank.audits, self.bank.accounts, self.bank.total)?;
        self.watches.judge()?;
        judge_sections(&self.sections, self.counter)?;
        judge_lives(&self.lives, &self.vanishings)
    }

    /// Writes the recording to a file, as JSON.
    ///
    /// # Errors
    /// Why that cannot be done.
    pub fn keep(&self, file: &Path) -> std::io::Result<()> {
        serde_json::to_writer(std::io::BufWriter::new(std::fs::File::create(file)?), self)?;
        Ok(())
    }

    /// Reads a file that [`keep`](Self::keep) wrote.
    ///
    /// # Errors
    /// Why that cannot be done.
    pub fn read(file: &Path) -> std::io::Result<Self> {
        Ok(serde_json::from_reader(std::io::BufReader::new(std::fs::File::open(file)?))?)
    }
}

impl Watches {
    fn judge(&self) -> Judgement {
        self.observations.iter().try_for_each(|observation| self.judge_one(observation))
    }

    fn judge_one(&self, observation: &Observation) -> Judgement {
        let Observation { listing, index, events, compacted } = observation;
        if let Some(event) = events.iter().find(|event| event.index <= *index) {
            return Err(Broke::new("E6", format!("an event that the listing at {index} covers: {event:?}")));
        }
        let later: Vec<_> = self.changes.iter().filter(|change| change.index > *index).cloned().collect();
        if !compacted {
            return judge_events(listing, events, &later, &self.last, self.completeness);
        }
        // The state at the end of this watch is not known. Up to its last event, nothing may be missing.
        let end = events.last().map_or(*index, |event| event.index);
        let seen: Vec<_> = later.into_iter().filter(|change| change.index <= end).collect();
        let mut state = listing.clone();
        for event in events {
            if event.event_type == kv_core::EventType::Delete {
                state.remove(&event.key);
            } else {
                state.insert(event.key.clone(), Value::new(event.data.clone(), event.index));
            }
        }
        judge_events(listing, events, &seen, &state, self.completeness)
    }
}

#[cfg(test)]
mod tests {
    use kv_core::EventType;

    use super::super::history::by_hand::{get, set};
    use super::*;

    fn event(event_type: EventType, data: &'static str, index: u64) -> Event {
        Event { key: "k".into(), event_type, data: data.into(), index }
    }

    fn recording() -> Recording {
        let change = |data: &'static str, index| Change { key: "k".into(), data: data.into(), index };
        Recording {
            about: "by hand".into(),
            registers: vec![set(0, 1, "a", 5), get(2, 3, "a", 5)],
            bank: Bank { accounts: 2, total: 10, audits: vec![Audit { index: 4, accounts: 2, total: 10 }] },
            watches: Watches {
                changes: vec![change("1", 5), change("2", 6), change("3", 7)],
                last: BTreeMap::from([("k".to_owned(), Value::new("3", 7))]),
                completeness: Completeness::Every,
                observations: vec![
                    Observation {
                        listing: BTreeMap::new(),
                        index: 4,
                        events: vec![event(EventType::Create, "1", 5), event(EventType::Update, "2", 6)],
                        compacted: true,
                    },
                    Observation {
                        listing: BTreeMap::from([("k".to_owned(), Value::new("2", 6))]),
                        index: 6,
                        events: vec![event(EventType::Update, "3", 7)],
                        compacted: false,
                    },
                ],
            },
            sections: Vec::new(),
            counter: 0,
            lives: Vec::new(),
            vanishings: Vec::new(),
        }
    }

    fn broken(tamper: impl FnOnce(&mut Recording)) -> Option<&'static str> {
        let mut recording = recording();
        tamper(&mut recording);
        recording.judge().err().and_then(|broke| broke.clause)
    }

    #[test]
    fn every_part_is_judged() {
        assert_eq!(broken(|_| {}), None);
        assert_eq!(broken(|recording| recording.registers[1] = get(2, 3, "b", 4)), Some("R1"));
        assert_eq!(broken(|recording| recording.bank.audits[0].total = 9), Some("R2"));
        assert_eq!(broken(|recording| drop(recording.watches.observations[0].events.remove(0))), Some("E2"));
        assert_eq!(broken(|recording| drop(recording.watches.observations[1].events.pop())), Some("E3"));
        assert_eq!(broken(|recording| recording.watches.observations[1].index = 7), Some("E6"));
        assert_eq!(broken(|recording| recording.counter = 1), Some("L5"));
        assert_eq!(broken(|recording| recording.lives.push(lost_too_early())), Some("L2"));
    }

    fn lost_too_early() -> Life {
        Life { key: "m".into(), data: "1".into(), kept_until: 9, end: super::super::End::Lost(8) }
    }

    #[test]
    fn what_is_kept_is_judged_alike() {
        let file = std::env::temp_dir().join(format!("{}.json", crate::names::unique_name()));
        let kept = recording();
        kept.keep(&file).expect("a file");
        let read = Recording::read(&file);
        std::fs::remove_file(&file).expect("the file is there");
        assert_eq!(read.expect("what was kept"), kept);
    }
}
