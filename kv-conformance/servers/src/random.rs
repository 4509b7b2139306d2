//! Names that no other process has.

use std::hash::{BuildHasher, RandomState};

/// Sixteen hexadecimal digits, random enough to be unique on one machine.
pub(crate) fn random() -> String {
    format!("{:016x}", RandomState::new().hash_one(0))
}
