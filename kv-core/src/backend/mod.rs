//! Everything that only authors of backends need.
//!
//! A backend implements [`Backend`] and [`Lease`], and registers itself with [`register!`](crate::register). The
//! other modules hold what every client of a server needs and in which no store differs.
//!
//! | for | see |
//! |---|---|
//! | what a backend implements | [`Backend`], [`Lease`], [`EventStream`] |
//! | what it receives and returns | [`Txn`], [`Check`], [`Operation`], [`Guard`], [`Grant`], [`Snapshot`] |
//! | how it is found and configured | [`Registration`](crate::Registration), [`Address`], [`Connecting`] |
//! | pauses between attempts | [`backoff`] |
//! | which endpoint is asked first | [`rotation`] |
//! | the deadline of a call, and whether it was sent | [`call`] |
//! | which error an unknown outcome is | [`fate`] |
//! | operations that travel together | [`batch`] |
//! | connections and queues of one runtime | [`runtime`] |
//! | what is given back in the background | [`background`] |
//! | leases kept for the next caller | [`spares`] |
//! | the clock of leases | [`clock`](crate::clock) |
//! | certificates (feature `tls`) | `tls` |
//! | events that an operator needs | [`observability`](crate::observability) |

pub(crate) mod address;
pub mod background;
pub mod backoff;
pub mod batch;
pub mod call;
pub mod fate;
mod interface;
mod lease;
pub mod rotation;
pub mod runtime;
pub mod spares;
#[cfg(feature = "tls")]
pub mod tls;
mod txn;

pub use address::{Address, Credentials, HostPort};
pub use interface::{Backend, Connecting, EventStream, Snapshot};
pub use lease::{Grant, Lease};
pub use txn::{Check, Guard, Operation, Txn};
