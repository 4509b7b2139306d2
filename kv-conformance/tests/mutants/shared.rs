//! What the clients of a faulty store share.

use std::sync::atomic::AtomicUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kv_core::{Lease, Result};
use kv_memory::MemoryBackend;
use tokio::sync::mpsc;

/// One store and what its clients leave in it.
#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) store: MemoryBackend,
    /// The queues of the watches for which writers wait.
    pub(crate) queues: Mutex<Vec<mpsc::WeakSender<Result<kv_core::Event>>>>,
    /// Leases that nobody gives back.
    pub(crate) kept: Mutex<Vec<Box<dyn Lease>>>,
    pub(crate) writes: AtomicUsize,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
