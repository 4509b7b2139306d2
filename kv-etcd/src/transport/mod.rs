//! The transport: calls, connections, the choice of the endpoint, login and TLS.

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
