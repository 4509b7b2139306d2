//! One key-value interface over etcd, Consul and memory.
//!
//! [`connect`] takes an address and gives a [`Kv`]: the same verbs with the same behaviour, whichever store it is.
//! What is promised is written down as numbered clauses in [`contract`], and the conformance suite proves each of
//! them on real servers.
//!
//! ```no_run
//! # async fn example() -> kv_core::Result<()> {
//! let kv = kv_core::connect("consul://127.0.0.1:8500/app").await?;
//! let index = kv.set("config/port", "8080").await?;
//! assert_eq!(kv.get("config/port").await?.index, index);
//! # Ok(())
//! # }
//! ```
//!
//! | for | see |
//! |---|---|
//! | using a store | [`connect`], [`Kv`], [`TxnBuilder`], [`Watch`], [`Lock`], [`EphemeralKey`] |
//! | what can go wrong | [`Error`] |
//! | what it tells while it works | [`observability`] |
//! | what differs between stores | [`Limits`] |
//! | writing a backend | [`backend`], [`Registration`], [`register!`] |
//!
//! A backend's crate must be linked for [`connect`] to find it: `use kv_memory as _;`. Where that is not wanted,
//! `Registry::new().with(kv_memory::REGISTRATION)` names it.
//!
//! Every call is a `tracing` span, and what may need an operator is an event at warn level: [`observability`] names
//! them all.

pub mod backend;
mod clock;
pub mod contract;
mod environment;
mod ephemeral_key;
mod error;
mod event;
mod held;
mod key;
mod kv;
mod limits;
mod lock;
pub mod observability;
mod registry;
mod txn;
mod value;
mod watch;

pub use environment::Environment;
pub use ephemeral_key::EphemeralKey;
pub use error::{Context, Error, Result, Source};
pub use event::{Event, EventType, InvalidEventType};
pub use kv::Kv;
pub use limits::{ExpiryLag, ForeignWrite, Limits, LockOrder, WatchHistory};
pub use lock::Lock;
pub use registry::{Registration, Registry, connect};
pub use txn::TxnBuilder;
pub use value::{Listing, Value};
pub use watch::Watch;

// The former paths of what stands in `backend` now.
#[doc(hidden)]
pub use backend::{
    Address, Backend, Check, Connecting, Credentials, EventStream, Grant, Guard, HostPort, Lease, Operation, Snapshot,
    Txn,
};

/// For [`register!`], which expands in other crates.
#[doc(hidden)]
pub use inventory;

/// The programs of the front page compile, and run.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
