//! The contract of [`kv_core`] as executable cases, for any backend.
//!
//! Every case proves some clauses of [`kv_core::contract`]. One that fails names the clause that is broken, with its
//! sentence, and shows what was done and seen, in order.
//!
//! # Testing a backend
//! [`guide`] writes a backend step by step. Its test is a target without the usual harness, of a crate that depends on
//! this one for its tests alone:
//!
//! ```toml
//! [dev-dependencies]
//! kv-conformance = { version = "0.1", default-features = false }
//!
//! [[test]]
//! name = "conformance"
//! harness = false
//! ```
//!
//! Its main function is [`run`] on a [`Fixture`], here the store at an address:
//!
//! ```no_run
//! # mod kv_mine {
//! #     pub const REGISTRATION: kv_core::Registration = kv_core::Registration {
//! #         name: "mine",
//! #         schemes: &["mine"],
//! #         parameters: &[],
//! #         generic_http: false,
//! #         connect: |_| Box::pin(async { Err(kv_core::Error::unavailable("a sketch")) }),
//! #     };
//! # }
//! use kv_conformance::AddressFixture;
//! use kv_core::Registry;
//!
//! fn main() -> std::process::ExitCode {
//!     kv_conformance::run(AddressFixture::new(Registry::new().with(kv_mine::REGISTRATION), "mine://localhost"))
//! }
//! ```
//!
//! Then every case is a test of its own under `cargo test`, which lists and filters them as any other. What a fixture
//! starts it ends: it lives as long as the run. If it cannot start, the run fails and says why. A case that needs what
//! the fixture has not (faults, an address, a network) is shown as ignored, with the reason; none is skipped silently.
//!
//! A store without an address of its own, or one that the tests start, is a [`Fixture`] of two methods. Faults
//! ([`Faults`]), an environment and a shorter time to live open more cases.
//!
//! # Testing a store that runs
//! ```text
//! cargo run -p kv-conformance -- etcd://10.0.0.1:2379,10.0.0.2:2379
//! cargo run -p kv-conformance -- etcd://localhost consul://localhost memory://suite --markdown table.md
//! ```
//! The program knows etcd, Consul and memory; the default features are its own. The second line writes the [`Table`] of
//! stores and clauses. Cases keep to a directory of their own and remove it afterwards, so that a store in use may be
//! tested; `--filter` takes a part of their names, or a clause.
//!
//! # Hurting a store
//! ```text
//! cargo run -p kv-conformance --features servers -- --start etcd --start consul --members 3 --filter clusters
//! ```
//! Members are killed, restarted, paused and cut off while many kinds of clients work; [`chaos`] tells what is run, what
//! it showed, and how a history that broke a clause is judged again.
//!
//! # Measuring a store
//! ```text
//! cargo run --release -p kv-conformance -- bench etcd://localhost --concurrency 1,16,128
//! ```
//! Callers that each wait for one answer before they ask again, and what they see of a store: calls a second and
//! latencies. The module `bench` (feature `bench`) is the same for other callers; `kv-conformance/peers` compares
//! other clients by it.
//!
//! # What is random
//! Each run draws a seed, and shows it where a case fails; the variable `KV_CONFORMANCE_SEED` repeats it. Clients that
//! race leave a history, which the pure functions of [`judge`] decide about: the same seed makes them do the same, but
//! not at the same moments. [`AddressFixture::with_effort`], or `--effort`, makes them try for longer.
//!
//! # Adding a case
//! One line in the table at the top of a file of `cases`, and one `async fn` below it. It works with clients of
//! [`Context`] only, names the clause in each of its checks, and waits for what it expects instead of sleeping: the
//! same case runs on a store that answers within a microsecond and on one that polls. What the contract leaves open
//! it must not expect. `tests/mutants` holds a store for each clause that breaks it: a new kind of fault belongs there.
//!
//! | for | see |
//! |---|---|
//! | writing a backend, step by step | [`guide`] |
//! | running the suite | [`run`], [`Suite`], [`Verdict`], [`Report`] |
//! | giving it a store | [`Fixture`], [`AddressFixture`], [`Faults`], [`Census`] |
//! | what it runs | [`CASES`], [`Case`], [`Need`], [`Context`], [`Outcome`], [`Broke`] |
//! | what came of it | [`Column`], [`Table`], [`write_between_marks`] |
//! | judging a history of one's own | [`judge`] |
//! | hurting connections without Docker | [`chaos::proxy`] |
//! | finding a secret that is logged or shown | `secrets` (feature `secrets`) |
//! | measuring a store | `bench` (feature `bench`) |

#[cfg(feature = "bench")]
pub mod bench;
mod case;
mod cases;
pub mod chaos;
mod client;
mod context;
mod fixture;
#[doc = include_str!("guide.md")]
pub mod guide {}
pub mod judge;
mod log;
mod marks;
mod random;
mod runner;
mod runtime;
#[cfg(feature = "secrets")]
pub mod secrets;
#[cfg(feature = "servers")]
pub mod servers;
mod suite;
mod table;

pub use case::{Broke, Case, Need, Outcome};
pub use cases::CASES;
pub use context::Context;
pub use fixture::{AddressFixture, Census, Faults, Fixture};
pub use marks::write_between_marks;
pub use runner::run;
pub use suite::{Report, Suite, Verdict};
pub use table::{Column, Table};
