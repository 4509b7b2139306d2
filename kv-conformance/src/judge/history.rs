//! What clients did, and when.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use kv_core::{Error, Kv, Value};
use serde::{Deserialize, Serialize};

use super::text;

/// One operation on one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// [`Kv::get`].
    Get,
    /// [`Kv::set`].
    Set(#[serde(with = "text")] Bytes),
    /// [`Kv::update`] at an index, 0 to create.
    Update(Value),
    /// [`Kv::delete`].
    Delete,
    /// [`Kv::remove`] at an index.
    Remove(u64),
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// A read found this.
    Found(Value),
    /// A read found nothing.
    Absent,
    /// A write was applied at this index.
    Wrote(u64),
    /// A deletion was applied, or there was nothing to delete.
    Deleted,
    /// The store refused: the key was otherwise.
    Conflict,
    /// It was certainly not applied.
    NotApplied,
    /// It may have been applied, or may still be.
    Unknown,
}

/// An operation with its place in time: numbers that grow as operations begin and end, whoever's they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Which client.
    pub client: usize,
    /// Which key.
    pub key: String,
    /// What it did.
    pub op: Op,
    /// What came of it.
    pub outcome: Outcome,
    /// When it began.
    pub began: u64,
    /// When it ended; if it is not known whether it was applied, that may have been at any later time.
    pub ended: u64,
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, key, op, outcome, began, ended } = self;
        write!(f, "[{began}..{ended}] client {client}: {op:?} of {key:?} -> {outcome:?}")
    }
}

/// A history in the making. Clones record into the same one.
#[derive(Debug, Clone, Default)]
pub struct History {
    records: Arc<Mutex<Vec<Record>>>,
    clock: Arc<AtomicU64>,
}

impl History {
    /// An empty history.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next moment, for what is recorded elsewhere but is to be compared.
    pub fn moment(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    /// Does one operation and records it.
    ///
    /// # Errors
    /// What no store may answer to a valid operation, however much it is hurt: that is for the caller to judge.
    pub async fn run(&self, client: usize, kv: &Kv, key: &str, op: Op) -> kv_core::Result<Outcome> {
        let began = self.moment();
        let result = match op.clone() {
            Op::Get => kv.get(key).await.map(Outcome::Found),
            Op::Set(data) => kv.set(key, data).await.map(Outcome::Wrote),
            Op::Update(value) => kv.update(key, value).await.map(Outcome::Wrote),
            Op::Delete => kv.delete(key).await.map(|()| Outcome::Deleted),
            Op::Remove(index) => kv.remove(key, index).await.map(|()| Outcome::Deleted),
        };
        let outcome = match result {
            Ok(outcome) => outcome,
            Err(Error::NotFound { .. }) => Outcome::Absent,
            Err(Error::Conflict { .. }) => Outcome::Conflict,
            Err(Error::Indeterminate { .. }) => Outcome::Unknown,
            Err(Error::Unavailable { .. }) => Outcome::NotApplied,
            Err(error) => return Err(error),
        };
        let record = Record { client, key: key.to_owned(), op, outcome: outcome.clone(), began, ended: self.moment() };
        self.records.lock().unwrap_or_else(PoisonError::into_inner).push(record);
        Ok(outcome)
    }

    /// What was recorded so far, in the order in which it began.
    pub fn records(&self) -> Vec<Record> {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner).clone();
        records.sort_by_key(|record| record.began);
        records
    }
}

/// Histories for the judges' own tests, written by hand.
#[cfg(test)]
pub(super) mod by_hand {
    use super::*;

    /// A record of client 0 and key `k`.
    pub(crate) fn record(began: u64, ended: u64, op: Op, outcome: Outcome) -> Record {
        Record { client: 0, key: "k".into(), op, outcome, began, ended }
    }

    pub(crate) fn set(began: u64, ended: u64, data: &'static str, index: u64) -> Record {
        record(began, ended, Op::Set(data.into()), Outcome::Wrote(index))
    }

    pub(crate) fn get(began: u64, ended: u64, data: &'static str, index: u64) -> Record {
        record(began, ended, Op::Get, Outcome::Found(Value::new(data, index)))
    }

    pub(crate) fn absent(began: u64, ended: u64) -> Record {
        record(began, ended, Op::Get, Outcome::Absent)
    }

    pub(crate) fn update(began: u64, ended: u64, from: u64, data: &'static str, index: u64) -> Record {
        record(began, ended, Op::Update(Value::new(data, from)), Outcome::Wrote(index))
    }

    pub(crate) fn conflict(began: u64, ended: u64, from: u64) -> Record {
        record(began, ended, Op::Update(Value::new("refused", from)), Outcome::Conflict)
    }

    pub(crate) fn delete(began: u64, ended: u64) -> Record {
        record(began, ended, Op::Delete, Outcome::Deleted)
    }
}
