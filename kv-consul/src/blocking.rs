//! One blocking query after another: the task that follows what is under one prefix, for everyone who watches it.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Weak};
use std::time::Duration;

use kv_core::Error;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::client::Client;
use crate::hub::{Hub, Query};
use crate::watch::{Changes, Update};

/// How long Consul holds a query back while nothing changes.
///
/// Its default is five minutes; but a query at an agent that was cut off from the others returns no sooner either.
pub(crate) const WAIT: Duration = Duration::from_secs(20);

/// How long the answer may take: Consul adds up to a sixteenth to the wait, so that not all queries end together.
pub(crate) const LIMIT: Duration = Duration::from_secs(26);

/// Pauses that double up to a limit.
pub(crate) struct Pause {
    first: Duration,
    max: Duration,
    next: Duration,
}

impl Pause {
    /// After a failure: soon at first, and then not too often.
    pub(crate) fn after_failure() -> Self {
        Self::new(Duration::from_millis(50), Duration::from_secs(2))
    }

    /// After an answer without a change that came early.
    ///
    /// Where nothing is under a prefix, Consul answers after every write to the store. The longest pause is both the
    /// most that an event is late, and what keeps a busy store from being asked after each of its writes.
    fn after_nothing() -> Self {
        Self::new(Duration::from_millis(5), Duration::from_millis(100))
    }

    fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, next: first }
    }

    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }

    /// The next pause; up to half of it is taken off at random, so that clients do not come back in step.
    pub(crate) fn next(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.max);
        let share = u32::try_from(random() >> 48).unwrap_or_default();
        pause / 2 + pause / 2 * share / (1 << 16)
    }
}

/// Some number.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(())
}

/// Follows a query, from `index` on, until it is stopped or fails for good.
pub(crate) async fn follow(hub: Weak<Hub>, client: Arc<Client>, id: u64, query: Query, index: u64, kick: Arc<Notify>) {
    let mut index = index;
    let (mut failed, mut idle) = (Pause::after_failure(), Pause::after_nothing());
    loop {
        let asked = Instant::now();
        let answer = tokio::select! {
            answer = client.next(query.scope(), index) => answer,
            () = kick.notified() => {
                index = 0;
                continue;
            }
        };
        let pause = match answer {
            Ok(mut listing) => {
                failed.reset();
                let (before, now) = (index, listing.index);
                // An index that goes backwards is that of another history: what is there now is read once more.
                index = if now < before { 0 } else { now };
                let compared = hub.upgrade().and_then(|hub| hub.compare(id, &mut listing));
                let Some((state, mut changes)) = compared else { return };
                client.date_deletions(&mut changes, before, now).await;
                let changes = Arc::new(Changes::of(changes, &listing));
                let update = Update { listing, before: state, changes };
                let Some(hub) = hub.upgrade() else { return };
                if hub.publish(id, update) {
                    idle.reset();
                    None
                } else if asked.elapsed() < WAIT {
                    Some(idle.next())
                } else {
                    None
                }
            }
            Err(error) => {
                // What was missed meanwhile shows in the difference. The old index may lie in the future of a store
                // that lost its data, where it would be waited for in vain.
                index = 0;
                if matches!(error, Error::PermissionDenied { .. }) {
                    if let Some(hub) = hub.upgrade() {
                        hub.fail(id, &error);
                    }
                    return;
                }
                tracing::debug!(%error, "a blocking query failed; trying again");
                Some(failed.next())
            }
        };
        if let Some(pause) = pause {
            tokio::select! {
                () = sleep(pause) => {}
                () = kick.notified() => index = 0,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_their_limit() {
        let mut pause = Pause::new(Duration::from_millis(10), Duration::from_millis(35));
        for longest in [10, 20, 35, 35] {
            let next = pause.next();
            assert!(next <= Duration::from_millis(longest), "{next:?}");
            assert!(next >= Duration::from_millis(longest) / 2, "{next:?}");
        }
        pause.reset();
        assert!(pause.next() <= Duration::from_millis(10));
    }

    #[test]
    fn the_limit_outlasts_the_wait_and_its_jitter() {
        assert!(LIMIT > WAIT + WAIT / 16);
    }
}
