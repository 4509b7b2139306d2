//! One key-value interface over etcd, Consul and memory.
//!
//! [`connect`] takes an address and returns a [`Kv`]: the same verbs with the same behaviour on every store.
//! Its promises are numbered clauses in [`contract`], and the conformance suite tests each of them on real servers.
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
//! | connecting | [`connect`], [`Registry`], [`Environment`] |
//! | reading and writing | [`Kv`], [`TxnBuilder`], [`Value`], [`Listing`] |
//! | following changes | [`Watch`], [`Event`], [`EventType`] |
//! | locks and membership, and giving them back | [`Lock`], [`EphemeralKey`], [`Kv::close`] |
//! | errors | [`Error`], [`Result`] |
//! | differences between stores | [`Limits`], [`ExpiryLag`], [`WatchHistory`] |
//! | the promises, clause by clause | [`contract`] |
//! | spans and events for operators | [`observability`] |
//! | writing a backend | [`backend`], [`Registration`], [`register!`] |
//!
//! [`connect`] finds the backends whose crates are linked, so a program contains `use kv_memory as _;`. Without
//! link-time registration, `Registry::new().with(kv_memory::REGISTRATION)` does the same.
//!
//! Every call is a `tracing` span, and whatever may need an operator is an event at warn level.

pub mod backend;
mod caller;
pub mod clock;
pub mod contract;
mod environment;
mod ephemeral_key;
mod error;
mod event;
mod holdings;
mod key;
mod kv;
mod lease_handle;
mod limits;
mod lock;
pub mod observability;
mod registry;
mod txn;
mod value;
mod watch;

pub use environment::Environment;
pub use ephemeral_key::EphemeralKey;
pub use error::{ConflictKind, Context, Error, Result, Source};
pub use event::{Event, EventType, InvalidEventType};
pub use kv::Kv;
pub use limits::{ExpiryLag, ForeignWrite, Limits, LockOrder, MemberLeave, WatchHistory};
pub use lock::Lock;
pub use registry::{Registration, Registry, connect};
pub use txn::TxnBuilder;
pub use value::{Listing, Value};
pub use watch::Watch;

/// For [`register!`], which expands in other crates.
#[doc(hidden)]
pub use inventory;

/// The code blocks of these pages compile and run.
#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../../README.md")]
    struct FrontPage;
    #[doc = include_str!("../../CONTRACT.md")]
    struct Contract;
    #[doc = include_str!("../README.md")]
    struct Crate;
}
