//! Leases, and what lives on them: ephemeral keys and locks.

mod contenders;
pub(crate) mod ephemeral_key;
mod keep_alive;
mod leases;
pub(crate) mod lock;
mod owned;
mod pending;
mod unused;

pub(crate) use leases::Leases;
pub(crate) use pending::MAX_TTL;
