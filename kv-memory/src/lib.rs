//! The embedded in-memory store behind [`kv_core::Kv`]: the default for tests and for a single process.
//!
//! It keeps the whole contract of [`kv_core::contract`], with an exact history for watches. It runs on tokio's
//! clock, so `tokio::time::pause` makes times to live lapse at once in a test.
//!
//! | address | store |
//! |---|---|
//! | `memory://` | a new one, private to the handle and its clones |
//! | `memory://NAME` | shared by all who name it in this process; gone with the last handle |
//! | `memory://NAME/root` | the same, with every key below `root/` |
//!
//! | parameter | meaning | default |
//! |---|---|---|
//! | `history` | how many events are kept for watches; they also hold at most 64 MiB | 10000 |
//! | `timeout` | the request timeout of the handle | `5s` |
//!
//! A watch that falls behind the kept history ends with [`Error::Compacted`](kv_core::Error::Compacted): a slow
//! consumer costs no memory of its own.
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
mod state;
mod store;
mod watch;

/// The code blocks of the crate's page compile and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Page;

pub use backend::MemoryBackend;
pub use connect::REGISTRATION;
