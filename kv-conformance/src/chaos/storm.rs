//! The faults of one run of the workloads.

use async_trait::async_trait;

use super::progress::Progress;
use crate::context::Context;
use crate::outcome::Outcome;

/// The role of a workload's client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Reads and writes.
    Client,
    /// Watches.
    Observer,
}

/// A sequence of faults.
#[async_trait]
pub(crate) trait Storm: Send + Sync + 'static {
    /// A description for the summary.
    fn about(&self) -> String;

    /// The endpoints of a client; `None` for the fixture's own connection.
    fn endpoints(&self, role: Role, number: usize) -> Option<Vec<String>>;

    /// Injects the faults, waits until they affect the clients, and heals them.
    async fn strike(&self, cx: &Context, progress: &Progress<'_>) -> Outcome;

    /// Heals every fault that may be in force after a failed run.
    async fn mend(&self, cx: &Context);

    /// Whether the run proves nothing unless the fault affected clients.
    fn must_bite(&self) -> bool;

    /// Whether the fault is planned work. Then no call may fail that could have been repeated in its time
    /// ([clause S5](kv_core::contract::CLAUSES#S5)).
    fn is_planned(&self) -> bool {
        false
    }

    /// Whether members leave, and with them perhaps the leases that they granted
    /// ([`Limits::member_leave`](kv_core::Limits::member_leave)).
    fn has_members_leave(&self) -> bool {
        false
    }
}

/// No fault: checks the workloads themselves.
pub(crate) struct Calm;

#[async_trait]
impl Storm for Calm {
    fn about(&self) -> String {
        "no fault".to_owned()
    }

    fn endpoints(&self, _role: Role, _number: usize) -> Option<Vec<String>> {
        None
    }

    async fn strike(&self, _cx: &Context, progress: &Progress<'_>) -> Outcome {
        progress.everyone("without any fault").await
    }

    async fn mend(&self, _cx: &Context) {}

    fn must_bite(&self) -> bool {
        false
    }
}
