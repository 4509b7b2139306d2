//! Operations on single keys that travel together: what Consul's transactions need of kv-core's batcher.

mod beliefs;
mod reads;
mod writes;

pub(crate) use reads::{ReadTransactions, Reads};
pub(crate) use writes::{SmallWrite, Transactions, Writes};
