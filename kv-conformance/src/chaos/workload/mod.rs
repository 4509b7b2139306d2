//! What clients do while the store is being hurt: a workload a file, each of which says what it saw.

pub(super) mod bank;
pub(super) mod busy;
pub(super) mod ephemeral;
pub(super) mod lock;
pub(super) mod register;
pub(super) mod watch;
