//! The transport of requests: the choice of the agent, repetitions, and connections.

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
