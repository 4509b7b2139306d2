//! Serialises data as text, so that people can read recorded histories.

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serializer, ser};

pub(super) fn serialize<S: Serializer>(data: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    let text = std::str::from_utf8(data).map_err(|_| ser::Error::custom("only text can be kept"))?;
    serializer.serialize_str(text)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    String::deserialize(deserializer).map(Bytes::from)
}
