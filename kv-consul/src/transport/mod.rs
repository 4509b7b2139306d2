//! How a request reaches an agent: which agent is asked, how often, and over which connection.

mod agent;
pub(crate) mod budget;
pub(crate) mod callers;
pub(crate) mod client;
pub(crate) mod clients;
mod departure;
mod failure;
mod fault;
mod health;
#[cfg(feature = "tls")]
mod tls;
#[cfg(not(feature = "tls"))]
#[path = "no_tls.rs"]
mod tls;

pub(crate) use agent::Response;
