//! What is etcd's own, on real servers: the suite of `kv-conformance` proves the rest.

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
