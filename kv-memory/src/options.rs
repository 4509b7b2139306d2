//! The settings of a store, from its address.

use kv_core::ForeignWrite;

use crate::history::History;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Options {
    /// How many events are kept for watches.
    pub(crate) history: usize,
    /// What a plain write does to an ephemeral key.
    pub(crate) foreign_write: ForeignWrite,
}

impl Default for Options {
    fn default() -> Self {
        Self { history: History::DEFAULT_EVENTS, foreign_write: ForeignWrite::Keeps }
    }
}
