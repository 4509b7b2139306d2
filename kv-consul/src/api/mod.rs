//! Consul's HTTP API: what is sent, and what the answers mean. Nothing here sends anything.

pub(crate) mod answer;
pub(crate) mod decoder;
pub(crate) mod entries;
pub(crate) mod listing;
pub(crate) mod lock;
pub(crate) mod messages;
pub(crate) mod path;
mod scan;
pub(crate) mod state;
pub(crate) mod transaction;

#[cfg(test)]
pub(crate) mod arbitrary;
