//! The consumer's end of a watch.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::future::poll_fn;
use kv_core::{Error, Result};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::entry::Command;
use super::gauge::{Gauge, Sink};
use super::reassembly::Batch;

/// The consumer's end of a watch, entries of locks included. Dropping it ends the watch.
pub(crate) struct Events {
    id: u64,
    batches: UnboundedReceiver<Result<Batch>>,
    /// Whether the error that ends the watch was returned.
    failed: bool,
    gauge: Arc<Gauge>,
    commands: UnboundedSender<Command>,
}

impl Events {
    pub(super) fn new(id: u64, commands: UnboundedSender<Command>) -> (Self, Sink) {
        let (sender, batches) = unbounded_channel();
        let gauge = Arc::<Gauge>::default();
        let sink = Sink { batches: sender, gauge: Arc::clone(&gauge) };
        (Self { id, batches, failed: false, gauge, commands }, sink)
    }

    /// Whether the watch was ended at the server because its consumer is behind. It resumes where it ended, unless that
    /// is compacted meanwhile.
    pub(crate) fn is_stopped(&self) -> bool {
        self.gauge.is_stopped()
    }

    /// The next changes. Changes of one revision come together, and an error is the last item.
    pub(crate) async fn next(&mut self) -> Option<Result<Batch>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Batch>>> {
        let item = match ready!(self.batches.poll_recv(cx)) {
            Some(Ok(batch)) => {
                self.gauge.take(batch.bytes);
                if self.gauge.start_again() {
                    // If the hub has ended, the next item is an error.
                    let _ = self.commands.send(Command::Start(self.id));
                }
                return Poll::Ready(Some(Ok(batch)));
            }
            Some(Err(error)) => Some(Err(error)),
            None if self.failed => None,
            // The hub ended with its runtime or with the backend. Without an error this would look like a normal end.
            None => {
                let why = "the runtime in which the watch was opened, or the backend, has ended";
                Some(Err(Error::unavailable(why)))
            }
        };
        self.failed = true;
        Poll::Ready(item)
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Close(self.id));
    }
}
