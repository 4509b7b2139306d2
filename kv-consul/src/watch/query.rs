//! The task of one query: one blocking query after another, for all watches of a scope.

use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use kv_core::backend::backoff::{Backoff, Recovery};
use kv_core::{Error, Result};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::deletions::date_deletions;
use super::feed::Feeds;
use super::slot::{Changes, Update};
use crate::api::listing::Listing;
use crate::api::state::ScopeBuf;
use crate::config::NAME;
use crate::read;
use crate::transport::client::Client;

/// How long Consul holds the first query while nothing changes. Each further one takes twice as long, up to [`WAIT`].
///
/// If nobody waits for a query any more, the agent still serves it until this time is up, and counts its connection. So
/// the first queries of a watch, which may be short-lived, are short.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// The longest time for which Consul holds a query.
///
/// Consul's default is five minutes. But a query at an agent that is cut off from the others does not end earlier.
const WAIT: Duration = Duration::from_secs(20);

/// The pauses after failures: short at first, and then not too many requests.
const AFTER_FAILURE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// The pauses after early answers without a change.
///
/// If nothing is under a prefix, Consul answers after every write to the store. The longest pause limits how late an
/// event is, and keeps a busy store from being asked after each of its writes.
const AFTER_NOTHING: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));

/// A query, which its task owns.
pub(super) struct Query {
    pub(super) feeds: Weak<Feeds>,
    pub(super) client: Arc<Client>,
    pub(super) id: u64,
    pub(super) scope: ScopeBuf,
    /// The index to wait beyond; 0 to begin with a read.
    pub(super) index: u64,
    /// Makes it read at once.
    pub(super) kick: Arc<Notify>,
}

/// What an answer meant.
enum Next {
    /// It changed something for a watch.
    Changed,
    /// It changed nothing that anybody watches.
    Nothing,
    /// Nobody needs this query any more.
    End,
}

impl Query {
    /// Runs until nobody needs the query any more, or it fails permanently.
    pub(super) async fn run(mut self) {
        let mut recovery = Recovery::new(NAME, "watch", Backoff::new(AFTER_FAILURE.0, AFTER_FAILURE.1));
        let mut idle = Backoff::new(AFTER_NOTHING.0, AFTER_NOTHING.1);
        let mut wait = FIRST_WAIT;
        loop {
            let asked = Instant::now();
            let pause = match self.ask(wait).await {
                Ok(listing) => {
                    recovery.worked();
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
                    if self.ends_with(&error) {
                        return;
                    }
                    // A comparison shows what was missed. If the store lost its data, the old index may be in its
                    // future, and a query would wait for it in vain.
                    (self.index, wait) = (0, FIRST_WAIT);
                    recovery.failed(&error)
                }
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = self.kick.notified() => self.index = 0,
            }
        }
    }

    /// Whether the query ends after an error: nobody needs it, or it is not permitted.
    fn ends_with(&self, error: &Error) -> bool {
        let Some(feeds) = self.feeds.upgrade() else { return true };
        if let Error::PermissionDenied { context, .. } = error {
            feeds.fail(self.id, || Error::permission_denied(&context.reason));
            return true;
        }
        feeds.end_unwatched(self.id)
    }

    /// Waits for the next answer. Each kick in between makes it read without waiting.
    async fn ask(&mut self, wait: Duration) -> Result<Listing> {
        let (client, scope) = (self.client.clone(), self.scope.clone());
        let Some(_permit) = client.try_wait() else {
            // All connections for blocking queries are in use, most likely for watches that have ended.
            return read::listing(&client, scope.as_scope()).await;
        };
        let mut answer = pin!(read::changed_listing(&client, scope.as_scope(), self.index, wait));
        let mut looked = false;
        loop {
            tokio::select! {
                answer = &mut answer => return match answer {
                    // It was on its way during the other reads, and is older than they are.
                    Ok(listing) if looked && listing.index < self.index => read::listing(&client, scope.as_scope()).await,
                    answer => answer,
                },
                () = self.kick.notified() => {}
            }
            let listing = read::listing(&client, scope.as_scope()).await?;
            self.take(listing).await;
            looked = true;
        }
    }

    /// Compares a listing with the state before, and hands the difference to the watches.
    async fn take(&mut self, mut listing: Listing) -> Next {
        let (before, now) = (self.index, listing.index);
        // An index that goes backwards belongs to another history, so the next query reads at once.
        self.index = if now < before { 0 } else { now };
        let compared = self.feeds.upgrade().and_then(|feeds| feeds.compare(self.id, &mut listing));
        let Some((state, mut changes)) = compared else { return Next::End };
        date_deletions(&self.client, &mut changes, before, now).await;
        let changes = Arc::new(Changes::of(changes, &listing));
        let update = Update { listing, before: state, changes };
        match self.feeds.upgrade().map(|feeds| feeds.publish(self.id, update)) {
            Some(true) => Next::Changed,
            Some(false) => Next::Nothing,
            None => Next::End,
        }
    }
}

impl Drop for Query {
    /// Fails the watches that are still there: the task ended early, with its runtime.
    fn drop(&mut self) {
        if let Some(feeds) = self.feeds.upgrade() {
            feeds.fail(self.id, || Error::unavailable("the runtime in which the watch was opened has ended"));
        }
    }
}
