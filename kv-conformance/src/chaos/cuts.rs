//! Connection faults through a proxy; the server itself is not affected.

use async_trait::async_trait;

use super::progress::Progress;
use super::proxy::{Proxy, RandomFaults};
use super::storm::{Role, Storm};
use crate::context::Context;
use crate::outcome::{Broke, Outcome};

/// How many connections the proxy ends.
const CUTS: usize = 500;

/// A proxy between all clients and the first member that injects random faults.
pub(crate) struct Cuts {
    proxy: Proxy,
    seed: u64,
}

impl Cuts {
    pub(crate) async fn new(cx: &Context) -> Outcome<Self> {
        let endpoint = cx.faults()?.endpoints().swap_remove(0);
        let started = Proxy::start(endpoint).await;
        let proxy = started.map_err(|error| Broke { clause: None, what: format!("there is no proxy: {error}") })?;
        Ok(Self { proxy, seed: cx.seed() })
    }
}

#[async_trait]
impl Storm for Cuts {
    fn about(&self) -> String {
        let counts = self.proxy.counts();
        format!(
            "{} of {} connections were cut, {} of them in the middle of a piece of data, and others stalled {} times \
             and delayed {} times",
            counts.cuts(),
            counts.connections,
            counts.truncations,
            counts.stalls,
            counts.delays
        )
    }

    fn endpoints(&self, _role: Role, _number: usize) -> Option<Vec<String>> {
        Some(vec![self.proxy.endpoint().to_owned()])
    }

    async fn strike(&self, cx: &Context, _progress: &Progress<'_>) -> Outcome {
        cx.note("hurt connections at random");
        self.proxy.hurt_at_random(RandomFaults::seeded(self.seed));
        let cut = self.proxy.wait_for(|counts| counts.cuts() >= CUTS);
        let cut = tokio::time::timeout(cx.expiry() * 5, cut).await;
        self.proxy.heal();
        cut.map(drop).map_err(|_| Broke::new("E4", format!("clients stopped connecting: {}", self.about())))
    }

    fn must_bite(&self) -> bool {
        true
    }

    async fn mend(&self, _cx: &Context) {
        self.proxy.heal();
    }
}
