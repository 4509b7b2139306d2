//! What a store accepts and promises, as data. Every difference between backends is stated here and tested.

use std::time::Duration;

/// What a store accepts, and what it promises where stores differ.
///
/// [`Kv`](crate::Kv) and the conformance suite check the same values, so the two agree. A backend states
/// every field. A new field breaks backends on purpose, so that none overlooks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The longest key, in bytes ([clause K1](crate::contract::CLAUSES#K1)). From [`Kv::limits`](crate::Kv::limits):
    /// without the handle's root.
    pub key_bytes: usize,
    /// The largest value, in bytes ([clause K3](crate::contract::CLAUSES#K3)).
    pub value_bytes: usize,
    /// The most checks and operations in one transaction, counted together ([clause W5](crate::contract::CLAUSES#W5)).
    ///
    /// A deleted directory counts as two: the key itself and everything below it.
    pub txn_ops: usize,
    /// The most bytes of keys and values in one transaction ([clause W5](crate::contract::CLAUSES#W5)).
    pub txn_bytes: usize,
    /// The shortest time to live that may be asked for ([clause L3](crate::contract::CLAUSES#L3)).
    pub min_ttl: Duration,
    /// The longest time to live that may be asked for ([clause L3](crate::contract::CLAUSES#L3)).
    pub max_ttl: Duration,
    /// The unit of times to live: finer ones are rounded up to a multiple of it
    /// ([clause L3](crate::contract::CLAUSES#L3)).
    pub ttl_step: Duration,
    /// How long a lease that nobody renews may outlive its time to live (clauses
    /// [L1](crate::contract::CLAUSES#L1) and [L4](crate::contract::CLAUSES#L4)).
    pub expiry_lag: ExpiryLag,
    /// What a watch is guaranteed to deliver (clauses [E1](crate::contract::CLAUSES#E1) and
    /// [E3](crate::contract::CLAUSES#E3)).
    pub watch_history: WatchHistory,
    /// What a plain write by another client does to an ephemeral key ([clause L2b](crate::contract::CLAUSES#L2b)).
    pub foreign_write: ForeignWrite,
    /// In which order those who wait for a lock are served ([clause L13](crate::contract::CLAUSES#L13)).
    pub lock_order: LockOrder,
    /// What becomes of leases when the member that granted them leaves the store (clause L1).
    pub member_leave: MemberLeave,
}

/// How late the store may notice that a lease has lapsed: a fixed time plus a multiple of its time to live.
///
/// The bound holds while the store has a stable leader; a new leader may restart the time of every lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpiryLag {
    /// The part that does not depend on the time to live.
    pub fixed: Duration,
    /// How many times the time to live is added.
    pub ttls: u32,
}

impl ExpiryLag {
    /// The bound for one time to live.
    ///
    /// ```
    /// # use kv_core::ExpiryLag;
    /// # use std::time::Duration;
    /// let lag = ExpiryLag { fixed: Duration::from_secs(1), ttls: 1 };
    /// assert_eq!(lag.after(Duration::from_secs(10)), Duration::from_secs(11));
    /// ```
    pub fn after(&self, ttl: Duration) -> Duration {
        self.fixed.saturating_add(ttl.saturating_mul(self.ttls))
    }
}

/// What a watch is guaranteed to deliver ([clause E3](crate::contract::CLAUSES#E3)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchHistory {
    /// Every change, in order; `after` reaches back as far as the store keeps its history.
    Every,
    /// The latest state of every changed key: changes of one key that follow fast upon one another may arrive as one,
    /// and `after` older than the last change under the prefix may be answered with
    /// [`Error::Compacted`](crate::Error::Compacted).
    Latest,
}

/// What a plain write (`set`, `update`, or one of a transaction) by another client does to an ephemeral key
/// ([clause L2b](crate::contract::CLAUSES#L2b)).
///
/// A deletion has one outcome on every store: the handle has lost the key, and what is created there afterwards belongs
/// to whoever created it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForeignWrite {
    /// The key becomes a plain one, which no longer vanishes, and the handle has lost it: `renew`, `set` and `destroy`
    /// are [`Error::Lost`](crate::Error::Lost) and leave it as it is.
    Detaches,
    /// The key keeps its lease: it has the new value, `renew`, `set` and `destroy` go on working, and it still vanishes
    /// once its time to live lapses.
    Keeps,
}

/// What becomes of leases when the member that granted them leaves the store, as before it is removed (clause L1).
///
/// A member that crashes or is restarted has not left: leases outlive that on every store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberLeave {
    /// Leases are the store's, and go on.
    KeepsLeases,
    /// Leases are the member's, and end with it: their keys vanish, and their locks pass on, before their time to live has
    /// passed. The handles learn it as from any loss.
    EndsLeases,
}

/// In which order those who wait for a lock are served (clause L13).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockOrder {
    /// In the order in which they asked, through any handle.
    Asked,
    /// Those of one handle in the order in which they asked; between handles no waiter is passed over for ever.
    PerHandle,
}
