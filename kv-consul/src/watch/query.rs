//! The task of one query: one blocking query after another, for all watches of a scope.

use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use kv_core::backend::backoff::{Backoff, Recovery};
use kv_core::{Error, Result};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::deletions::{date_deletions, undated};
use super::diff::Change;
use super::feed::{Feeds, Start};
use super::slot::{Changes, Update};
use crate::api::listing::Listing;
use crate::api::state::{ScopeBuf, State};
use crate::config::NAME;
use crate::read;
use crate::transport::client::Client;

/// How long Consul holds the first query while nothing changes. Each further one takes twice as long, up to [`WAIT`].
///
/// The agent serves an abandoned query until this time is up, and counts its connection. A watch may be short-lived, so
/// its first queries are short.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// The longest time for which Consul holds a query.
///
/// Consul's default is five minutes, which is too long for a query at an agent that is isolated from the others.
const WAIT: Duration = Duration::from_secs(20);

/// The pauses after failures. They are short at first, and grow to limit the number of requests.
const AFTER_FAILURE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// The pauses after early answers without a change.
///
/// If nothing is under a prefix, Consul answers after every write to the store. The longest pause limits the delay of
/// an event. The pauses keep a busy store from being queried after each write.
const AFTER_NOTHING: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));

/// The pauses between the reads of a query for which no connection is left.
const POLLING: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(500));

/// For how many keys that are gone from one listing the token's permission is checked.
const PROBED: usize = 512;

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
    /// Whether the last query did not wait, because no connection was left.
    polls: bool,
}

/// The meaning of an answer.
enum Next {
    /// It changed something for a watch.
    Changed,
    /// It changed nothing that is watched.
    Nothing,
    /// No watch needs this query any more.
    End,
}

impl Query {
    /// Starts the queries of new feeds.
    pub(super) fn spawn_all(feeds: &Arc<Feeds>, client: &Arc<Client>, starts: Vec<Start>) {
        for Start { id, scope, index, kick } in starts {
            let query =
                Self { feeds: Arc::downgrade(feeds), client: client.clone(), id, scope, index, kick, polls: false };
            feeds.started(id, tokio::spawn(query.run()).abort_handle());
        }
    }

    /// Runs until no watch needs the query, or it fails permanently.
    pub(super) async fn run(mut self) {
        let mut recovery = Recovery::new(NAME, "watch", Backoff::new(AFTER_FAILURE.0, AFTER_FAILURE.1));
        let mut idle = Backoff::new(AFTER_NOTHING.0, AFTER_NOTHING.1);
        let mut polling = Backoff::new(POLLING.0, POLLING.1);
        let mut wait = FIRST_WAIT;
        loop {
            let (asked, from) = (Instant::now(), self.index);
            let answered = match self.ask(wait).await {
                Ok(listing) => self.take(listing).await,
                Err(error) => Err(error),
            };
            let pause = match answered {
                Ok(next) => {
                    recovery.worked();
                    match next {
                        Next::End => return,
                        Next::Changed => {
                            idle.reset();
                            polling.reset();
                            continue;
                        }
                        Next::Nothing if asked.elapsed() < wait => {
                            // An early answer with the same index comes from a store that is being replaced. In the new
                            // one that index may be in the future.
                            if self.index == from {
                                self.index = 0;
                            }
                            if self.polls { polling.next() } else { idle.next() }
                        }
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
                    // The comparison shows what was missed. If the store lost its data, the old index may be in its
                    // future, and a query would wait forever.
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

    /// Whether the query ends after an error: no watch needs it, or it is not permitted.
    fn ends_with(&self, error: &Error) -> bool {
        let Some(feeds) = self.feeds.upgrade() else { return true };
        if let Error::PermissionDenied { context, .. } = error {
            // The token may be permitted to list each prefix that is watched, but not the one that covers them all.
            if let Some(starts) = feeds.split(self.id) {
                Self::spawn_all(&feeds, &self.client, starts);
                return true;
            }
            feeds.fail(self.id, || Error::permission_denied(&context.reason));
            return true;
        }
        feeds.end_unwatched(self.id)
    }

    /// Waits for the next answer. Each kick in the meantime causes a read that does not wait.
    async fn ask(&mut self, wait: Duration) -> Result<Listing> {
        let (client, scope) = (self.client.clone(), self.scope.clone());
        let permit = client.try_wait();
        self.polls = permit.is_none();
        if self.polls {
            // All connections for blocking queries are in use, most likely for watches that have ended.
            return read::listing(&client, scope.as_scope()).await;
        }
        let mut answer = pin!(read::changed_listing(&client, scope.as_scope(), self.index, wait));
        let mut looked = false;
        loop {
            tokio::select! {
                answer = &mut answer => return match answer {
                    // This answer was on its way during the other reads, and is older than theirs.
                    Ok(listing) if looked && listing.index < self.index => read::listing(&client, scope.as_scope()).await,
                    answer => answer,
                },
                () = self.kick.notified() => {}
            }
            let listing = read::listing(&client, scope.as_scope()).await?;
            self.take(listing).await?;
            looked = true;
        }
    }

    /// Compares a listing with the state before, and hands the difference to the watches.
    async fn take(&mut self, mut listing: Listing) -> Result<Next> {
        let (before, now) = (self.index, listing.index);
        let compared = self.feeds.upgrade().and_then(|feeds| feeds.compare(self.id, &mut listing));
        let Some((state, mut changes)) = compared else { return Ok(Next::End) };
        if let Some(state) = &state {
            self.refuse_unreadable(state, &listing, &changes).await?;
        }
        date_deletions(&self.client, &mut changes, before, now).await;
        // An index that goes backwards belongs to another history, so the next query reads at once.
        self.index = if now < before { 0 } else { now };
        let changes = Arc::new(Changes::of(changes, &listing));
        let update = Update { listing, before: state, changes };
        Ok(match self.feeds.upgrade().map(|feeds| feeds.publish(self.id, update)) {
            Some(true) => Next::Changed,
            Some(false) => Next::Nothing,
            None => Next::End,
        })
    }

    /// Ends the watches that lost the permission to read ([clause E8](kv_core::contract::CLAUSES#E8)).
    ///
    /// Consul leaves out of a listing what the token may not read, which looks like a deletion. A check for each
    /// deletion would cost a request for each. So the permission is checked if nothing is left of what a watch covers,
    /// or if the index did not grow, as it does with every deletion.
    async fn refuse_unreadable(&self, before: &State, listing: &Listing, changes: &[Change]) -> Result<()> {
        let gone = undated(changes);
        let gone: Vec<&str> = gone.iter().take(PROBED).map(|at| changes[*at].key.as_str()).collect();
        let Some(feeds) = self.feeds.upgrade() else { return Ok(()) };
        let is_suspicious = || listing.index <= self.index || feeds.empties(self.id, before, &listing.state);
        if gone.is_empty() || !is_suspicious() {
            return Ok(());
        }
        drop(feeds);
        let denied = read::denied(&self.client, &gone).await?;
        let denied: Vec<&str> = denied.into_iter().filter_map(|at| gone.get(at).copied()).collect();
        if let Some(feeds) = self.feeds.upgrade().filter(|_| !denied.is_empty()) {
            feeds.refuse(self.id, &denied, || Error::permission_denied("the token may not read the prefix any more"));
        }
        Ok(())
    }
}

impl Drop for Query {
    /// Fails the remaining watches, because the task ended early with its runtime.
    fn drop(&mut self) {
        if let Some(feeds) = self.feeds.upgrade() {
            feeds.fail(self.id, || Error::unavailable("the runtime in which the watch was opened has ended"));
        }
    }
}
