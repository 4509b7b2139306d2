//! The data that every contender writes and reads.

use bytes::Bytes;
use kv_conformance_program::bench::{Keys, OwnKeys};

/// The keys and the value of every contest.
#[derive(Clone)]
pub(crate) struct Load {
    pub(crate) keys: Keys,
    pub(crate) value: Bytes,
}

impl Load {
    /// 10,000 keys and values of 128 bytes. They are ASCII, because some clients take nothing else.
    pub(crate) fn new() -> Self {
        Self { keys: Keys::new(10_000), value: Bytes::from(vec![b'v'; 128]) }
    }

    pub(crate) fn of(&self, caller: usize, callers: usize) -> OwnKeys {
        self.keys.of(caller, callers)
    }
}
