//! What a backend returns for a lock or an ephemeral key: the trait behind [`Lock`](crate::Lock) and
//! [`EphemeralKey`](crate::EphemeralKey).

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::txn::Guard;
use crate::Result;
use crate::clock::Moment;

/// A lease on one key, held by one handle: the store's side of a lock or of an ephemeral key.
///
/// The handle watches the clock ([clause L6](crate::contract::CLAUSES#L6)), so a backend need not: it is not called
/// once the time to live has lapsed, except for [`release`](Self::release) when the handle is dropped.
#[async_trait]
pub trait Lease: Send + Sync + 'static {
    /// Restarts the time to live; [`Error::Lost`](crate::Error::Lost) if the store has ended the lease.
    ///
    /// Repeating it is harmless, so every failure but `Lost` is [`Error::Unavailable`](crate::Error::Unavailable).
    async fn renew(&self) -> Result<()>;

    /// Renews, then writes the value of the leased key, which stays leased; returns the index of the write.
    ///
    /// [`Error::Lost`](crate::Error::Lost) if the key is no longer this lease's; then nothing is written
    /// ([clause L2](crate::contract::CLAUSES#L2)).
    async fn set(&self, data: Bytes) -> Result<u64>;

    /// Ends the lease and removes its key at once; [`Error::Lost`](crate::Error::Lost) if the key was no longer this
    /// lease's, and then nothing that belongs to another is touched (clauses [L2](crate::contract::CLAUSES#L2) and
    /// [L7](crate::contract::CLAUSES#L7)).
    ///
    /// May be called again after a failure.
    async fn release(&self) -> Result<()>;

    /// Whether dropping the lease gives it back at once, as in a store within this process. Otherwise a lease that is
    /// dropped without a [`release`](Self::release) that succeeded is left to its time to live, and
    /// [`Kv::close`](crate::Kv::close) says so ([clause L12](crate::contract::CLAUSES#L12)).
    fn is_given_back_on_drop(&self) -> bool {
        false
    }
}

/// A granted lease, as a backend hands it to [`Kv`](crate::Kv).
pub struct Grant {
    /// The store's side of it.
    pub lease: Box<dyn Lease>,
    /// The time to live that was granted, at least the one asked for ([clause L3](crate::contract::CLAUSES#L3)).
    pub ttl: Duration,
    /// When the request that granted the lease, or the last renewal since, *began*: before it was sent
    /// ([clause L6](crate::contract::CLAUSES#L6)).
    pub since: Moment,
    /// What a transaction needs to check that the lease still stands, with the fencing token in it
    /// ([clause L5](crate::contract::CLAUSES#L5)).
    pub guard: Guard,
}

impl std::fmt::Debug for Grant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grant").field("ttl", &self.ttl).field("guard", &self.guard).finish_non_exhaustive()
    }
}
