//! Recorded histories of clients, and pure functions that judge whether they keep the contract.
//!
//! Concurrent clients record a [`History`], which the judges read afterwards. The judges use neither a store nor a
//! clock. Each returns the broken clause and the operations that prove it.

mod audit;
mod events;
mod history;
mod linear;
mod lives;
mod order;
mod recording;
mod registers;
mod sections;
mod tenure;
mod text;

pub use audit::{Audit, judge_audits};
pub use events::{Change, Completeness, judge_events};
pub use history::{History, Op, Outcome, Record};
pub use linear::{Linearizability, linearizable};
pub use lives::{End, Life, Vanishing, judge_lives};
pub use order::{judge_order, judge_winners};
pub use recording::{Bank, Observation, Recording, Watches};
pub use registers::judge_registers;
pub use sections::{Section, Write, judge_sections};
pub use tenure::{Tenure, judge_tenures};

/// The result of a judge: `Ok`, or the broken clause and the operations that prove it.
pub type Judgement = Result<(), crate::Broke>;
