//! One blocking query after another: the task that follows what is under one prefix, for everyone who watches it.

use std::hash::{BuildHasher as _, RandomState};
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use kv_core::observability::{reconnected, reconnecting};
use kv_core::{Error, Result};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::NAME;
use crate::client::Client;
use crate::hub::{Hub, Query};
use crate::read::Listing;
use crate::watch::{Changes, Update};

/// How long Consul first holds a query back while nothing changes; then twice as long each time, up to [`WAIT`].
///
/// An agent goes on with a query that nobody waits for any more, and counts its connection, until this time is up. So
/// what may be short-lived is not to ask for much of it.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// How long Consul holds a query back at most.
///
/// Its default is five minutes; but a query at an agent that was cut off from the others returns no sooner either.
const WAIT: Duration = Duration::from_secs(20);

/// How long the answer may take beyond the wait and what Consul adds to it.
const MARGIN: Duration = Duration::from_secs(5);

/// How long the answer to a query may take: Consul adds up to a sixteenth, so that not all queries end together.
pub(crate) fn limit(wait: Duration) -> Duration {
    wait + wait / 16 + MARGIN
}

/// Pauses that double up to a limit.
pub(crate) struct Pause {
    first: Duration,
    max: Duration,
    next: Duration,
    /// How many there were since the last reset.
    count: usize,
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
    pub(crate) fn after_nothing() -> Self {
        Self::new(Duration::from_millis(5), Duration::from_millis(100))
    }

    fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, next: first, count: 0 }
    }

    pub(crate) fn reset(&mut self) {
        self.next = self.first;
        self.count = 0;
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// The next pause; up to half of it is taken off at random, so that clients do not come back in step.
    pub(crate) fn next(&mut self) -> Duration {
        self.count += 1;
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

/// What follows one query.
pub(crate) struct Following {
    pub(crate) hub: Weak<Hub>,
    pub(crate) client: Arc<Client>,
    pub(crate) id: u64,
    pub(crate) query: Query,
    /// Where to begin; 0: with what is there.
    pub(crate) index: u64,
    /// Makes it look at once.
    pub(crate) kick: Arc<Notify>,
}

/// What came of an answer.
enum Next {
    /// It changed something for somebody.
    Changed,
    /// It changed nothing that anybody watches.
    Nothing,
    /// Nobody needs this query any more.
    End,
}

impl Following {
    /// Follows the query until nobody needs it any more, or it fails for good.
    pub(crate) async fn run(mut self) {
        let (mut failed, mut idle) = (Pause::after_failure(), Pause::after_nothing());
        let mut wait = FIRST_WAIT;
        loop {
            let asked = Instant::now();
            let pause = match self.ask(wait).await {
                Ok(listing) => {
                    if failed.count() > 0 {
                        reconnected(NAME, "watch", failed.count());
                    }
                    failed.reset();
                    match self.take(listing).await {
                        Next::End => return,
                        Next::Changed => {
                            idle.reset();
                            continue;
                        }
                        Next::Nothing if asked.elapsed() < wait => idle.next(),
                        Next::Nothing => {
                            wait = (wait * 2).min(WAIT);
                            continue;
                        }
                    }
                }
                Err(error) => {
                    let Some(hub) = self.hub.upgrade() else { return };
                    if matches!(error, Error::PermissionDenied { .. }) {
                        hub.fail(self.id, &error);
                        return;
                    }
                    if hub.end_unneeded(self.id) {
                        return;
                    }
                    // What was missed meanwhile shows in the difference. The old index may lie in the future of a
                    // store that lost its data, where it would be waited for in vain.
                    (self.index, wait) = (0, FIRST_WAIT);
                    let pause = failed.next();
                    reconnecting(NAME, "watch", failed.count(), &error);
                    pause
                }
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = self.kick.notified() => self.index = 0,
            }
        }
    }

    /// Waits for the query's next answer, and looks without waiting whenever it is kicked meanwhile.
    async fn ask(&mut self, wait: Duration) -> Result<Listing> {
        let (client, query) = (self.client.clone(), self.query.clone());
        let Some(_permit) = client.try_wait() else {
            // Every connection that may wait does; most likely for watches that are no more.
            return client.list(query.scope()).await;
        };
        let mut answer = pin!(client.next(query.scope(), self.index, wait));
        let mut looked = false;
        loop {
            tokio::select! {
                answer = &mut answer => return match answer {
                    // It was on its way when the others were looked at, and shows what was before them.
                    Ok(listing) if looked && listing.index < self.index => client.list(query.scope()).await,
                    answer => answer,
                },
                () = self.kick.notified() => {}
            }
            let listing = client.list(query.scope()).await?;
            self.take(listing).await;
            looked = true;
        }
    }

    /// Compares a listing with what was there before, and hands out the difference.
    async fn take(&mut self, mut listing: Listing) -> Next {
        let (before, now) = (self.index, listing.index);
        // An index that goes backwards is that of another history: what is there now is read once more.
        self.index = if now < before { 0 } else { now };
        let compared = self.hub.upgrade().and_then(|hub| hub.compare(self.id, &mut listing));
        let Some((state, mut changes)) = compared else { return Next::End };
        self.client.date_deletions(&mut changes, before, now).await;
        let changes = Arc::new(Changes::of(changes, &listing));
        let update = Update { listing, before: state, changes };
        match self.hub.upgrade().map(|hub| hub.publish(self.id, update)) {
            Some(true) => Next::Changed,
            Some(false) => Next::Nothing,
            None => Next::End,
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        if let Some(hub) = self.hub.upgrade() {
            hub.abandon(self.id);
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
        for wait in [FIRST_WAIT, WAIT] {
            assert!(limit(wait) > wait + wait / 16);
        }
    }
}
