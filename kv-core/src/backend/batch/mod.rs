//! Operations that travel together: what is submitted at the same time, or waits, goes in one request.
//!
//! A server does less work for one request of 64 operations than for 64 requests. So beside the server a [`Batcher`]
//! lets only a few requests be in flight. An operation that finds room is sent at once, by its caller's own task; no
//! timer delays it. An operation that finds none waits in a queue, and the next request that returns takes a share of
//! the queue with it.
//!
//! Far from the server an operation that waited for another's answer would take twice as long. There the first
//! operation leaves alone, and those that are submitted in the same turn of the runtime leave together, without
//! waiting for an answer.
//!
//! - **The window follows the distance.** The least round trip of the last seconds, less half a millisecond that a
//!   server's work explains, is the distance. It holds one request for each half millisecond, beside those few that keep
//!   a near server busy. If requests take longer than the least round trip, the server is busy, and fewer may be in
//!   flight. After a pause the full window is open again, and so it is before the first answer. The server's own limit
//!   bounds it.
//! - **Near by, shares are equal.** All requests together carry what there is. If each took the whole queue, one would
//!   carry nearly everything and the others next to nothing, and a small request costs the server half as much as a full
//!   one.
//! - **Callers are served in turn.** Nobody overtakes those who wait.
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
