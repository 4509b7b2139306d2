//! The stream of events that a consumer sees.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use kv_core::{Error, Event, Result};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::entry::Command;
use super::gauge::{Gauge, Sink};
use super::reassembly::Batch;

/// The consumer's end: events one by one; dropping it ends the watch.
pub(crate) struct Events {
    id: u64,
    batches: UnboundedReceiver<Result<Batch>>,
    ready: std::vec::IntoIter<Event>,
    /// The error that ends the stream has been handed on.
    failed: bool,
    gauge: Arc<Gauge>,
    commands: UnboundedSender<Command>,
}

impl Events {
    pub(super) fn new(id: u64, commands: UnboundedSender<Command>) -> (Self, Sink) {
        let (sender, batches) = unbounded_channel();
        let gauge = Arc::<Gauge>::default();
        let sink = Sink { batches: sender, gauge: Arc::clone(&gauge) };
        (Self { id, batches, ready: Vec::new().into_iter(), failed: false, gauge, commands }, sink)
    }
}

impl Stream for Events {
    type Item = Result<Event>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(event) = self.ready.next() {
                return Poll::Ready(Some(Ok(event)));
            }
            match ready!(self.batches.poll_recv(cx)) {
                Some(Ok(batch)) => {
                    self.gauge.take(batch.bytes);
                    self.ready = batch.events.into_iter();
                    if self.gauge.start_again() {
                        // Without a hub there is nothing to be started.
                        let _ = self.commands.send(Command::Start(self.id));
                    }
                }
                Some(Err(error)) => {
                    self.failed = true;
                    return Poll::Ready(Some(Err(error)));
                }
                None if self.failed => return Poll::Ready(None),
                // Its hub went with the runtime, or with the backend. Without an error that would look like an end.
                None => {
                    self.failed = true;
                    let why = "the runtime in which the watch was opened, or the backend, has ended";
                    return Poll::Ready(Some(Err(Error::unavailable(why))));
                }
            }
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Close(self.id));
    }
}
