//! The state of one watch in the hub, and the commands of its consumer.

use std::collections::HashMap;

use kv_core::{Error, Result};
use tokio::sync::oneshot;

use super::gauge::Sink;
use super::reassembly::{Batch, Reassembly};
use crate::api::messages::ResponseHeader;
use crate::api::range::{Range, index};

/// The commands of consumers to the hub, with the number of the watch.
pub(super) enum Command {
    /// A new watch.
    Open(u64, Watch),
    /// The consumer of a stopped watch has caught up.
    Start(u64),
    /// The consumer is gone.
    Close(u64),
}

/// The state of one watch in the hub.
pub(super) struct Watch {
    pub(super) range: Range,
    /// The first revision that has not been delivered; 0: the one after the server's when it confirms the watch.
    pub(super) next: i64,
    /// The id of the cluster that confirmed it first; 0: unknown.
    cluster: u64,
    /// The revision of a server that is known to lag behind the cluster; 0: no such server.
    lag: i64,
    pub(super) reassembly: Reassembly,
    sink: Sink,
    /// Tells the caller that the server has confirmed the watch; taken once it has.
    opened: Option<oneshot::Sender<Result<()>>>,
    /// Its consumer is behind, so the watch was ended at the server.
    pub(super) stopped: bool,
    /// Whether the server has refused it once, perhaps only because the token had lapsed.
    pub(super) refused: bool,
}

/// How the history of a server continues what a watch has delivered ([clause E8](kv_core::contract::CLAUSES#E8)).
#[derive(Debug, PartialEq, Eq)]
pub(super) enum History {
    Same,
    /// The server is at an older revision: its history was replaced, or the member lags behind.
    Older,
    /// The server belongs to another cluster.
    Replaced,
}

impl Watch {
    pub(super) fn new(range: Range, next: i64, sink: Sink, opened: oneshot::Sender<Result<()>>) -> Self {
        let reassembly = Reassembly::default();
        Self { range, next, cluster: 0, lag: 0, reassembly, sink, opened: Some(opened), stopped: false, refused: false }
    }

    /// Compares the header of an answer with what was delivered.
    pub(super) fn history(&mut self, header: Option<&ResponseHeader>) -> History {
        // A server may leave fields of the header out.
        let Some(header) = header else { return History::Same };
        if header.cluster_id != 0 {
            if self.cluster != 0 && self.cluster != header.cluster_id {
                return History::Replaced;
            }
            self.cluster = header.cluster_id;
        }
        let revision = header.revision;
        if revision <= 0 || self.is_behind(revision) && self.lag > 0 && revision >= self.lag {
            return History::Same;
        }
        self.lag = 0;
        if self.is_behind(revision) { History::Older } else { History::Same }
    }

    /// Notes that a server at this revision only lags behind the cluster. Some proxies always do.
    pub(super) fn lags(&mut self, revision: i64) {
        self.lag = revision;
    }

    /// Notes that the stream has ended.
    pub(super) fn interrupted(&mut self) {
        self.reassembly.clear();
        self.lag = 0;
    }

    /// Whether a revision is older than what was delivered.
    pub(super) fn is_behind(&self, revision: i64) -> bool {
        revision < self.next.saturating_sub(1)
    }

    /// Notes that the server has confirmed the watch.
    pub(super) fn confirmed(&mut self, header: Option<&ResponseHeader>) {
        self.refused = false;
        if self.next == 0 {
            self.next = header.map_or(0, |header| header.revision).max(0).saturating_add(1);
        }
        if let Some(opened) = self.opened.take() {
            let _ = opened.send(Ok(()));
        }
    }

    /// Delivers events. If the consumer is behind, drops them instead and marks the watch as stopped.
    pub(super) fn deliver(&mut self, batch: Batch) {
        if self.sink.gauge.is_full() {
            self.stopped = true;
            return;
        }
        self.next = batch.last.saturating_add(1);
        self.sink.gauge.add(batch.bytes);
        // A consumer that is gone sends `Close` itself.
        let _ = self.sink.batches.send(Ok(batch));
    }

    /// Lets the consumer start the stopped watch again when it has caught up. If it has caught up already, the watch is
    /// not stopped any more.
    pub(super) fn stay_stopped(&mut self) {
        self.reassembly.clear();
        self.sink.gauge.stop();
        self.stopped = !self.sink.gauge.start_again();
    }

    /// Ends the watch with an error.
    pub(super) fn fail(mut self, error: Error) {
        if let Some(opened) = self.opened.take() {
            let _ = opened.send(Err(error));
        } else {
            let _ = self.sink.batches.send(Err(error));
        }
    }

    /// Ends the watch because the server no longer has every event after the last delivered one.
    ///
    /// `oldest` is the oldest revision from which the server can watch; 0 if no watch can continue this one.
    pub(super) fn compacted(self, oldest: i64) {
        let after = index(self.next.saturating_sub(1));
        self.fail(Error::Compacted { after, oldest: (oldest > 0).then_some(index(oldest)) });
    }
}

/// The watches of one hub, by number.
pub(super) type Watches = HashMap<u64, Watch>;

#[cfg(test)]
mod tests {
    use super::super::events::Events;
    use super::*;

    fn watch(next: i64) -> Watch {
        let (_, sink) = Events::new(1, tokio::sync::mpsc::unbounded_channel().0);
        Watch::new(Range::key("k"), next, sink, oneshot::channel().0)
    }

    fn header(cluster_id: u64, revision: i64) -> ResponseHeader {
        ResponseHeader { cluster_id, revision }
    }

    #[test]
    fn a_server_at_an_older_revision_is_noticed() {
        let mut watch = watch(8);
        for (revision, history) in [(7, History::Same), (6, History::Older), (0, History::Same), (900, History::Same)] {
            assert_eq!(watch.history(Some(&header(0, revision))), history, "{revision}");
        }
        assert_eq!(watch.history(None), History::Same);
    }

    #[test]
    fn a_server_that_lags_is_accepted_until_it_goes_further_back() {
        let mut watch = watch(8);
        assert_eq!(watch.history(Some(&header(0, 5))), History::Older);
        watch.lags(5);
        for (revision, history) in [(5, History::Same), (6, History::Same), (4, History::Older), (5, History::Older)] {
            assert_eq!(watch.history(Some(&header(0, revision))), history, "{revision}");
        }
        watch.lags(5);
        assert_eq!(watch.history(Some(&header(0, 7))), History::Same);
        assert_eq!(watch.history(Some(&header(0, 5))), History::Older, "it had caught up");
    }

    #[test]
    fn another_cluster_is_noticed_whatever_its_revision() {
        let mut watch = watch(8);
        assert_eq!(watch.history(Some(&header(5, 9))), History::Same);
        assert_eq!(watch.history(Some(&header(0, 9))), History::Same);
        assert_eq!(watch.history(Some(&header(6, 9))), History::Replaced);
        assert_eq!(watch.history(Some(&header(5, 9))), History::Same);
    }

    #[test]
    fn a_watch_from_now_begins_after_the_servers_revision() {
        let mut watch = watch(0);
        assert_eq!(watch.history(Some(&header(1, 3))), History::Same);
        watch.confirmed(Some(&header(1, 3)));
        assert_eq!(watch.next, 4);
    }
}
