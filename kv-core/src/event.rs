//! Events of a watch, and their JSON.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::value::base64_bytes;

/// One change of one key, as a watch delivers it ([clause E2](crate::contract::CLAUSES#E2)).
///
/// Its JSON is `{"key":"a","type":1,"data":"<base64>","index":7}`.
///
/// ```
/// # use kv_core::{Event, EventType};
/// let event: Event = serde_json::from_str(r#"{"key":"a","type":2,"data":null,"index":9}"#)?;
/// assert_eq!(event.event_type, EventType::Delete);
/// assert!(event.data.is_empty());
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Event {
    /// The key that changed.
    pub key: String,
    /// What happened to it.
    #[serde(rename = "type")]
    pub event_type: EventType,
    /// The new data; empty for a deletion.
    #[serde(with = "base64_bytes", default)]
    pub data: Bytes,
    /// The index of the change.
    pub index: u64,
}

/// What happened to a key. In JSON: its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
pub enum EventType {
    /// The key did not exist before.
    Create = 1,
    /// The key no longer exists.
    Delete = 2,
    /// The key existed before and was written again, perhaps with the same data.
    Update = 3,
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Create => "Create",
            Self::Delete => "Delete",
            Self::Update => "Update",
        })
    }
}

impl From<EventType> for u8 {
    fn from(event_type: EventType) -> Self {
        event_type as Self
    }
}

/// The number of no event type, such as 0, which the Go package uses for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not an event type: 1 is Create, 2 is Delete, 3 is Update")]
pub struct InvalidEventType(pub u8);

impl TryFrom<u8> for EventType {
    type Error = InvalidEventType;

    fn try_from(number: u8) -> Result<Self, InvalidEventType> {
        match number {
            1 => Ok(Self::Create),
            2 => Ok(Self::Delete),
            3 => Ok(Self::Update),
            other => Err(InvalidEventType(other)),
        }
    }
}
