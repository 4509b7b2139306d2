//! The load generator of the command `kv-conformance`, for programs that measure other clients in the same way.
//!
//! The command itself runs the suite of [`kv_conformance`] on running stores:
//!
//! ```text
//! cargo run --bin kv-conformance -- etcd://localhost consul://localhost memory://suite
//! ```

pub mod bench;
