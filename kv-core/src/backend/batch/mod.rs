//! Operations that travel together: what waits while a request is in flight goes with the next one.
//!
//! A server does less work for one request of 64 operations than for 64 requests. A [`Batcher`] therefore lets only
//! a few requests be in flight. An operation that finds room is sent at once, by its caller's own task; no timer
//! delays it. An operation that finds none waits in a queue, and the next request that returns takes a share of the
//! queue with it.
//!
//! - **Shares are equal.** All requests together carry what there is. If each took the whole queue, one would carry
//!   nearly everything and the others next to nothing, and a small request costs the server half as much as a full
//!   one.
//! - **A key travels once** in a batch, where the carrier asks for it. [`Duplicates`] says what happens to the others.
//! - **Nobody waits for the dead.** A caller that gives up is left out, and if it was sending, another task goes on
//!   for those that queued behind it. If no request returns for a while, more are let through. What has waited too
//!   long is answered without being sent.
//!
//! A driver implements [`Carrier`], which says how operations are sent, and keeps one `Batcher` for each runtime (see
//! [`PerRuntime`](super::runtime::PerRuntime)), because the tasks that carry for others stop with their runtime.

mod batcher;
mod carrier;
mod queue;
mod rules;
mod window;

pub use batcher::Batcher;
pub use carrier::{Carrier, Job, Verdict};
pub use rules::{Duplicates, Rules};
