//! Values and listings, and their JSON.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The data of a key, and the index of the write that set it.
///
/// Its JSON is `{"data":"<base64>","index":7}`; `null` is read as empty data. Binary formats hold the bytes as they
/// are.
///
/// ```
/// # use kv_core::Value;
/// let value = Value::new("eth0", 7);
/// assert_eq!(serde_json::to_string(&value)?, r#"{"data":"ZXRoMA==","index":7}"#);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Value {
    /// Any bytes, empty included.
    #[serde(with = "base64_bytes", default)]
    pub data: Bytes,
    /// The index of the write; given to [`Kv::update`](crate::Kv::update), the index that the key must have, and 0
    /// for a key that must not exist.
    pub index: u64,
}

impl Value {
    /// Pairs data with an index.
    pub fn new(data: impl Into<Bytes>, index: u64) -> Self {
        Self { data: data.into(), index }
    }
}

/// Every key under a prefix with its value, at one point in the store's history
/// ([clause R2](crate::contract::CLAUSES#R2)).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Listing {
    /// The values by key, sorted by the keys' bytes.
    pub values: BTreeMap<String, Value>,
    /// The point in history: a watch with this `after` delivers exactly the later changes.
    pub index: u64,
}

/// Bytes as a base64 string in formats that people read, such as JSON: the format of the Go package that this interface
/// descends from. Binary formats hold the bytes as they are.
pub(crate) mod base64_bytes {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use bytes::Bytes;
    use serde::de::{Error, Visitor};
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(data: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        if !serializer.is_human_readable() {
            return serializer.serialize_bytes(data);
        }
        serializer.serialize_str(&STANDARD.encode(data))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        // Formats that are not self-describing must be asked for exactly the type that was written.
        if !deserializer.is_human_readable() {
            return deserializer.deserialize_byte_buf(Plain);
        }
        let text = Option::<String>::deserialize(deserializer)?.unwrap_or_default();
        STANDARD.decode(text).map(Bytes::from).map_err(Error::custom)
    }

    /// Bytes that a format stores as they are.
    struct Plain;

    impl Visitor<'_> for Plain {
        type Value = Bytes;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("bytes")
        }

        fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
            Ok(Bytes::copy_from_slice(bytes))
        }

        fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Bytes, E> {
            Ok(bytes.into())
        }
    }
}
