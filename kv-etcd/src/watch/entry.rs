//! One watch as the hub and its stream know it, and what its consumer may ask of them.

use std::collections::HashMap;

use kv_core::{Error, Result};
use tokio::sync::oneshot;

use super::gauge::Sink;
use super::reassembly::{Batch, Reassembly};
use crate::api::range::{Range, index};

/// What the consumers' side asks of the hub.
pub(super) enum Command {
    /// A new watch.
    Open(u64, Watch),
    /// The consumer of a stopped watch has caught up.
    Start(u64),
    /// The consumer is gone.
    Close(u64),
}

/// One watch, as the hub keeps it.
pub(super) struct Watch {
    pub(super) range: Range,
    /// The first revision that has not been delivered.
    pub(super) next: i64,
    pub(super) reassembly: Reassembly,
    sink: Sink,
    /// Who waits for the server to confirm the watch; taken once it has.
    opened: Option<oneshot::Sender<Result<()>>>,
    /// Its consumer is behind, so the server is not to send.
    pub(super) stopped: bool,
    /// The server has refused it once, perhaps only for a token that had lapsed.
    pub(super) refused: bool,
}

impl Watch {
    pub(super) fn new(range: Range, next: i64, sink: Sink, opened: oneshot::Sender<Result<()>>) -> Self {
        let reassembly = Reassembly::default();
        Self { range, next, reassembly, sink, opened: Some(opened), stopped: false, refused: false }
    }

    /// The server watches.
    pub(super) fn confirmed(&mut self) {
        self.refused = false;
        if let Some(opened) = self.opened.take() {
            let _ = opened.send(Ok(()));
        }
    }

    /// Hands events on. If the consumer is behind they are not, and the watch has to be stopped.
    pub(super) fn deliver(&mut self, batch: Batch) {
        if self.sink.gauge.is_full() {
            self.stopped = true;
            return;
        }
        self.next = batch.last.saturating_add(1);
        self.sink.gauge.add(batch.bytes);
        // A consumer that is gone says so itself.
        let _ = self.sink.batches.send(Ok(batch));
    }

    /// Leaves a stopped watch to its consumer, unless the consumer has caught up just now.
    pub(super) fn stay_stopped(&mut self) {
        self.reassembly.clear();
        self.sink.gauge.stop();
        self.stopped = !self.sink.gauge.start_again();
    }

    /// Ends it for good.
    pub(super) fn fail(mut self, error: Error) {
        if let Some(opened) = self.opened.take() {
            let _ = opened.send(Err(error));
        } else {
            let _ = self.sink.batches.send(Err(error));
        }
    }

    /// The server no longer has all that this watch has not seen.
    pub(super) fn compacted(self, revision: i64) {
        let after = index(self.next - 1);
        // One may still watch from the compacted revision itself, but older servers leave out deletions there.
        self.fail(Error::Compacted { after, oldest: Some(index(revision)) });
    }
}

/// Every watch of the backend.
pub(super) type Watches = HashMap<u64, Watch>;
