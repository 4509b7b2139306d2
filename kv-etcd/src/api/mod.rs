//! etcd's messages, and their decoding.

pub(crate) mod compare;
pub(crate) mod lock_entry;
pub(crate) mod messages;
pub(crate) mod page;
pub(crate) mod range;
pub(crate) mod values;
