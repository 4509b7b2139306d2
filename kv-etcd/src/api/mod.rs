//! etcd's messages, and what is read out of them.

pub(crate) mod compare;
pub(crate) mod lock_entry;
pub(crate) mod messages;
pub(crate) mod page;
pub(crate) mod range;
pub(crate) mod values;
