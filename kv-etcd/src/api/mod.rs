//! etcd's messages, and what is read out of them.

#[cfg(test)]
mod arbitrary;
pub(crate) mod compare;
pub(crate) mod messages;
pub(crate) mod page;
pub(crate) mod range;
