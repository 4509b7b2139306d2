//! The limits of a batch, as a driver states them.

use std::time::Duration;

/// The limits of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// The most operations in one batch.
    pub operations: usize,
    /// The most bytes in one batch. An operation that is larger travels in a batch of its own.
    pub bytes: usize,
    /// The most bytes of an operation that takes part. A larger one is sent alone at once.
    pub largest: usize,
    /// What happens to an operation whose key the batch already has.
    pub duplicates: Duplicates,
    /// If no request has been sent for this long although operations wait, one more may be in flight.
    ///
    /// A server may take seconds to answer a request that it forwarded to a member that died meanwhile. Such a request
    /// must not hold up the others.
    pub stalled_after: Duration,
}

/// What happens to an operation whose key is already in the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Duplicates {
    /// It is sent alone, at the same time as the batch.
    Alone,
    /// It stays in the queue, and so do those behind it with the same key: operations on one key keep their order.
    Wait,
}
