//! A load generator. It measures how fast a store answers callers that each wait for one answer before the next call.
//!
//! [`measure`] runs any [`Caller`]s in a closed loop. Those in [`callers`] use a [`Kv`](kv_core::Kv). A [`Summary`] of
//! several runs has the medians, with their spread.
//!
//! ```
//! use std::time::Duration;
//!
//! use kv_conformance_program::bench::{Keys, Plan, Summary, callers::Get, measure};
//!
//! # #[tokio::main]
//! # async fn main() -> kv_core::Result<()> {
//! let kv = kv_core::Registry::new().with(kv_memory::REGISTRATION).connect("memory://").await?;
//! let keys = Keys::new(100);
//! keys.fill(&kv, &"value".into()).await?;
//! let plan = Plan { callers: 2, measured: Duration::from_millis(10), ..Plan::default() };
//! let sample = measure(&plan, |caller| Get::new(&kv, keys.of(caller, plan.callers))).await;
//! println!("{}", Summary::new(vec![sample]));
//! # Ok(())
//! # }
//! ```

pub mod callers;
mod closed_loop;
mod keys;
mod summary;

pub use closed_loop::{Answer, Caller, Failure, Plan, Sample, measure};
pub use keys::{Keys, OwnKeys};
pub use summary::{Spread, Summary};
