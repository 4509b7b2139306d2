//! The history of concurrent clients: their operations, with the times of each.

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

/// The outcome of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// A read returned this value.
    Found(Value),
    /// A read returned that the key does not exist.
    Absent,
    /// A write was applied at this index.
    Wrote(u64),
    /// A deletion was applied, or the key did not exist.
    Deleted,
    /// The store refused the operation because the key had another index.
    Conflict,
    /// The operation was certainly not applied.
    NotApplied,
    /// The operation may have been applied, or may still be applied later.
    Unknown,
}

/// An operation with its place in time. One counter numbers the beginnings and ends of all clients' operations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The number of the client.
    pub client: usize,
    /// The key.
    pub key: String,
    /// The operation.
    pub op: Op,
    /// The outcome.
    pub outcome: Outcome,
    /// When the operation began.
    pub began: u64,
    /// When the operation ended. An operation of unknown outcome may take effect at any later time.
    pub ended: u64,
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, key, op, outcome, began, ended } = self;
        write!(f, "[{began}..{ended}] client {client}: {op:?} of {key:?} -> {outcome:?}")
    }
}

/// A history that is being recorded. Clones record into the same history.
#[derive(Debug, Clone, Default)]
pub struct History {
    records: Arc<Mutex<Vec<Record>>>,
    clock: Arc<AtomicU64>,
}

impl History {
    /// Creates an empty history.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the next moment, for records that are kept elsewhere but compared with this history.
    pub fn moment(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    /// Runs one operation and records it.
    ///
    /// # Errors
    /// The error, if it is one that no store may return for a valid operation, even under fault. The caller judges it.
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

    /// Returns the records so far, in the order in which the operations began.
    pub fn records(&self) -> Vec<Record> {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner).clone();
        records.sort_by_key(|record| record.began);
        records
    }
}

/// Builders of histories for the judges' own tests.
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
