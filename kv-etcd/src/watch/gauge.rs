//! How much lies ready for a consumer, seen from both ends of its watch.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use kv_core::Result;
use tokio::sync::mpsc::UnboundedSender;

use super::reassembly::Batch;

/// How much may lie ready for a consumer, in bytes, before its watch is stopped until it has caught up. One batch
/// more may be added: what etcd sends at a time, at most a request's size or one transaction.
const READ_AHEAD: usize = 1 << 20;

/// What a watch's consumer and the hub both see: how much lies ready.
#[derive(Default)]
pub(super) struct Gauge {
    bytes: AtomicUsize,
    /// The hub has stopped the watch; whoever finds the buffer empty has it started again.
    stopped: AtomicBool,
}

impl Gauge {
    pub(super) fn is_full(&self) -> bool {
        self.bytes.load(Ordering::SeqCst) >= READ_AHEAD
    }

    pub(super) fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::SeqCst);
    }

    pub(super) fn take(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::SeqCst);
    }

    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }

    /// Whether the watch is to be started again; true for one of those who ask.
    pub(super) fn start_again(&self) -> bool {
        self.bytes.load(Ordering::SeqCst) == 0 && self.stopped.swap(false, Ordering::SeqCst)
    }
}

/// The hub's end of a watch.
pub(super) struct Sink {
    pub(super) batches: UnboundedSender<Result<Batch>>,
    pub(super) gauge: Arc<Gauge>,
}
