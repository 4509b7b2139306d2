//! Behaviour that only etcd has, on real servers. The suite of `kv-conformance` tests the rest.

mod auth;
mod batch;
mod distance;
mod lock;
mod snapshot;
mod support;
#[cfg(feature = "tls")]
mod tls;
mod unreachable;
mod watch;
