//! The contract of [`kv_core`] as executable cases, for any backend.
//!
//! Every case proves some clauses of [`kv_core::contract`]. A case that fails names the broken clause with its
//! sentence, and prints what it did and saw, in order.
//!
//! # Testing a backend
//! [`guide`] writes a backend step by step. Its test is a target without the standard harness. Only the tests depend on
//! this crate:
//!
//! ```toml
//! [dev-dependencies]
//! kv-conformance = { path = "../kv/kv-conformance" }
//!
//! [[test]]
//! name = "conformance"
//! harness = false
//! ```
//!
//! The main function of the test is [`run`] on a [`Fixture`], here the store at an address:
//!
//! ```no_run
//! # mod kv_mine {
//! #     pub const REGISTRATION: kv_core::Registration = kv_core::Registration {
//! #         name: "mine",
//! #         schemes: &["mine"],
//! #         parameters: &[],
//! #         named: false,
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
//! Every case is then a test of its own under `cargo test`, which lists and filters cases like other tests. The fixture
//! lives as long as the run and ends what it started. If it cannot start, the run fails and prints the reason. A case
//! that needs something the fixture lacks (faults, an address, a network) is reported as ignored, with the reason. No
//! case is skipped silently.
//!
//! A store without an address, or a store that the tests start, implements [`Fixture`] with two methods. Faults
//! ([`Faults`]), an environment and a shorter time to live enable more cases.
//!
//! # Testing a running store
//! ```text
//! cargo run --bin kv-conformance -- etcd://10.0.0.1:2379,10.0.0.2:2379
//! cargo run --bin kv-conformance -- etcd://localhost consul://localhost memory://suite --markdown table.md
//! ```
//! The program is the package `kv-conformance-program`; it knows etcd, Consul and memory. The second line writes the
//! [`Table`] of stores and clauses. Each case works in a directory of its own and removes it afterwards, so the store
//! may be in use. `--filter` selects cases by a part of their names, or by a clause.
//!
//! # Fault testing
//! ```text
//! cargo run --bin kv-conformance -- --start etcd --start consul --members 3 --filter clusters
//! ```
//! Members are killed, restarted, paused and isolated while several kinds of clients work. [`chaos`] describes the
//! workloads, the results, and how to judge a recorded history again. The servers come from the package
//! `kv-conformance-servers`.
//!
//! # Measuring a store
//! ```text
//! cargo run --release --bin kv-conformance -- bench etcd://localhost --concurrency 1,16,128
//! ```
//! Measures calls per second and latencies with callers that each wait for one answer before the next call. The library
//! of `kv-conformance-program` has the same load generator for other callers; `kv-conformance/peers` uses it to compare
//! other clients.
//!
//! # Randomness
//! Each run draws a seed and prints it when a case fails; the variable `KV_CONFORMANCE_SEED` repeats it. Concurrent
//! clients record a history, which the pure functions of [`judge`] check. The same seed repeats the operations, but not
//! their timing. [`AddressFixture::with_effort`], or `--effort`, repeats the random parts more often.
//!
//! # Adding a case
//! A case is one line in the table at the top of a file in `cases`, and one `async fn` below it. It uses clients of its
//! [`Context`] only, names the clause in each check, and awaits what it expects instead of sleeping: the same case runs
//! on a store that answers within a microsecond and on a store that polls. It must not expect what the contract leaves
//! open. `tests/mutants` has a store for each clause that breaks it; add one for a new kind of fault.
//!
//! | to | use |
//! |---|---|
//! | write a backend, step by step | [`guide`] |
//! | run the suite | [`run`], [`Suite`], [`Verdict`], [`Report`] |
//! | connect the suite to a store | [`Fixture`], [`AddressFixture`], [`Faults`], [`Census`] |
//! | read or write cases | [`CASES`], [`Case`], [`Need`], [`Context`], [`Outcome`], [`Broke`] |
//! | report results | [`Column`], [`Table`], [`write_between_marks`] |
//! | judge a recorded history | [`judge`] |
//! | inject connection faults without Docker | [`chaos::proxy`] |
//! | wait for a condition in a test | [`testing`] |
//! | find a secret in logs, errors and `Debug` output | `secrets` (feature `secrets`) |

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
mod names;
mod need;
mod outcome;
mod random;
mod runner;
mod runtime;
#[cfg(feature = "secrets")]
pub mod secrets;
mod suite;
mod table;
pub mod testing;

pub use case::Case;
pub use cases::CASES;
pub use context::Context;
pub use fixture::{AddressFixture, Census, Faults, Fixture};
pub use marks::write_between_marks;
pub use need::Need;
pub use outcome::{Broke, Outcome};
pub use runner::run;
pub use suite::{Report, Suite, Verdict};
pub use table::{Column, Table};
