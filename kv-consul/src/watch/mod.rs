//! Watches: blocking queries whose answers are compared with the state before, shared by all watches of one runtime.

mod deletions;
mod diff;
mod feed;
pub(crate) mod history;
pub(crate) mod hub;
mod moments;
mod query;
mod recent;
mod slot;
pub(crate) mod subscription;
