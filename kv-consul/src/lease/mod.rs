//! Leases: sessions, and the ephemeral keys and locks that they hold.

pub(crate) mod ephemeral_key;
pub(crate) mod lock;
mod owned;
mod pending;
mod place;
pub(crate) mod queue;
mod session;
pub(crate) mod spare;
