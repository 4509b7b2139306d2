//! The embedded in-memory store behind [`kv_core::Kv`]: the default for tests and for a single process.
//!
//! It keeps the whole contract of [`kv_core::contract`], and its watches deliver every change.
//!
//! # Runtimes and time
//! The store runs no task: each call that reads, writes or waits ends the leases that have lapsed. A handle works from
//! any number of runtimes ([clause S1](kv_core::contract::CLAUSES#S1)), and a lock or a key that was taken in one
//! lapses for the others even if that runtime is idle or gone. A runtime needs tokio's time driver (`enable_time`) for
//! calls that wait: a watch or a lock that waits while leases exist.
//!
//! Times to live run on tokio's clock, so `tokio::time::pause` makes them lapse at once in a test. Runtimes that share
//! a store must use the same clock, so use only one runtime where the clock is paused.
//!
//! # Addresses
//! | address | store |
//! |---|---|
//! | `memory://` | a new one, private to the handle and its clones |
//! | `memory://NAME` | shared in this process by all who use the name; removed with its last handle |
//! | `memory://NAME/root` | the same, with every key below `root/` |
//!
//! | parameter | meaning | default |
//! |---|---|---|
//! | `history` | how many events are kept for watches, within 64 MiB; the commit that exceeds either is kept whole | 10000 |
//! | `foreign-write` | what a plain write by another client does to an ephemeral key: it `keeps` its lease, as on Consul, or the write `detaches` it, as on etcd; see [`Limits::foreign_write`](kv_core::Limits::foreign_write) | `keeps` |
//! | `timeout` | the request timeout of the handle | `5s` |
//!
//! A store that has a name is made with the parameters of the first address. A later address may leave them out. An
//! address with other parameters is an error.
//!
//! A watch that falls behind the history ends with [`Error::Compacted`](kv_core::Error::Compacted), so a slow consumer
//! costs no memory of its own.
//!
//! ```
//! use kv_memory as _;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> kv_core::Result<()> {
//! let kv = kv_core::connect("memory://").await?;
//! kv.set("greeting", "hello").await?;
//! assert_eq!(kv.get("greeting").await?.data, "hello");
//! # Ok(())
//! # }
//! ```

mod backend;
mod connect;
mod history;
mod lease;
mod leases;
mod options;
mod read;
mod shared;
mod state;
mod subscriptions;
mod watch;

/// The code blocks of the crate's page compile and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Page;

pub use backend::MemoryBackend;
pub use connect::REGISTRATION;
