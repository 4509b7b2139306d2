//! What a run of the workloads has to weather.

use async_trait::async_trait;

use super::progress::Progress;
use crate::case::Outcome;
use crate::context::Context;

/// What a client of a workload does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Reads and writes.
    Client,
    /// Watches.
    Observer,
}

/// Faults, in their order.
#[async_trait]
pub(crate) trait Storm: Send + Sync + 'static {
    /// What happens, for the summary.
    fn about(&self) -> String;

    /// Where a client connects; `None`: as the fixture does.
    fn endpoints(&self, role: Role, number: usize) -> Option<Vec<String>>;

    /// Hurts the store, lets the clients feel it, and heals it.
    async fn strike(&self, cx: &Context, progress: &Progress<'_>) -> Outcome;

    /// Heals whatever may be hurt, when the run failed in between.
    async fn mend(&self, cx: &Context);

    /// Whether the run proves nothing unless clients have felt it.
    fn must_bite(&self) -> bool;

    /// Whether it is planned: no call may then fail that could have been made again in its time (clause S5).
    fn is_planned(&self) -> bool {
        false
    }
}

/// No fault at all: what the workloads are worth by themselves.
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
