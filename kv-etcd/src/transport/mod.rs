//! The way to the cluster: a connection, which endpoint it leads to, who is logged in on it, and its encryption.

mod auth;
pub(crate) mod client;
mod connection;
mod connector;
mod frames;
mod health;
mod http2;
#[cfg(feature = "tls")]
pub(crate) mod tls;
#[cfg(not(feature = "tls"))]
#[path = "no_tls.rs"]
pub(crate) mod tls;
