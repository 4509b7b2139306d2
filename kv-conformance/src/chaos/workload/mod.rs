//! What clients do under fault. Each file is one workload, which returns what it did and saw.

pub(super) mod bank;
pub(super) mod busy;
pub(super) mod ephemeral;
pub(super) mod lock;
pub(super) mod register;
pub(super) mod watch;
