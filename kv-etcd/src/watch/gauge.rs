//! The bytes that wait for a consumer, counted by both ends of its watch.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use kv_core::Result;
use tokio::sync::mpsc::UnboundedSender;

use super::reassembly::Batch;

/// If this many bytes wait for a consumer, its watch is stopped until the consumer has caught up
/// ([clause E5](kv_core::contract::CLAUSES#E5)). One more batch may be added, which is as large as a request to etcd or
/// as one transaction.
const READ_AHEAD: usize = 1 << 20;

/// The count that the hub and the consumer of a watch share.
#[derive(Default)]
pub(super) struct Gauge {
    bytes: AtomicUsize,
    /// Whether the hub has stopped the watch. The side that finds the buffer empty starts it again.
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

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Whether the caller must start the watch again; `true` for only one of several callers.
    pub(super) fn start_again(&self) -> bool {
        self.bytes.load(Ordering::SeqCst) == 0 && self.stopped.swap(false, Ordering::SeqCst)
    }
}

/// The hub's end of a watch.
pub(super) struct Sink {
    pub(super) batches: UnboundedSender<Result<Batch>>,
    pub(super) gauge: Arc<Gauge>,
}
