//! The contract of [`kv_core`] as executable cases, for any backend.
//!
//! A backend's test target is a `harness = false` one, and its main function is [`run`] on a [`Fixture`]: the store
//! at an address ([`AddressFixture`]), or one that the fixture starts itself.

mod case;
mod cases;
mod client;
mod context;
mod fixture;
pub mod judge;
mod log;
mod random;
mod runner;
#[cfg(feature = "servers")]
pub mod servers;
mod suite;
mod table;

pub use case::{Broke, Case, Need, Outcome};
pub use cases::CASES;
pub use context::Context;
pub use fixture::{AddressFixture, Faults, Fixture};
pub use runner::run;
pub use suite::{Report, Suite, Verdict};
pub use table::{Column, Table};
