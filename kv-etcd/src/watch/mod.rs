//! Watches: opening them, and the stream of events that a consumer sees.

pub(crate) mod batch;
mod hub;
mod session;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use kv_core::{Event, Result};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use batch::Batch;
use hub::Command;
pub(crate) use hub::Hub;

/// How much may lie ready for a consumer, in bytes, before its watch is stopped until it has caught up. One batch
/// more may be added: what etcd sends at a time, at most a request's size or one transaction.
const READ_AHEAD: usize = 1 << 20;

/// What a watch's consumer and the hub both see: how much lies ready.
#[derive(Default)]
struct Gauge {
    bytes: AtomicUsize,
    /// The hub has stopped the watch; whoever finds the buffer empty has it started again.
    stopped: AtomicBool,
}

impl Gauge {
    fn is_full(&self) -> bool {
        self.bytes.load(Ordering::SeqCst) >= READ_AHEAD
    }

    fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::SeqCst);
    }

    fn take(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::SeqCst);
    }

    fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }

    /// Whether the watch is to be started again; true for one of those who ask.
    fn start_again(&self) -> bool {
        self.bytes.load(Ordering::SeqCst) == 0 && self.stopped.swap(false, Ordering::SeqCst)
    }
}

/// The hub's end of a watch.
struct Sink {
    batches: UnboundedSender<Result<Batch>>,
    gauge: Arc<Gauge>,
}

/// The consumer's end: events one by one; dropping it ends the watch.
pub(crate) struct Events {
    id: u64,
    batches: UnboundedReceiver<Result<Batch>>,
    ready: std::vec::IntoIter<Event>,
    gauge: Arc<Gauge>,
    commands: UnboundedSender<Command>,
}

impl Events {
    fn new(id: u64, commands: UnboundedSender<Command>) -> (Self, Sink) {
        let (sender, batches) = unbounded_channel();
        let gauge = Arc::<Gauge>::default();
        let sink = Sink { batches: sender, gauge: Arc::clone(&gauge) };
        (Self { id, batches, ready: Vec::new().into_iter(), gauge, commands }, sink)
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
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Close(self.id));
    }
}
