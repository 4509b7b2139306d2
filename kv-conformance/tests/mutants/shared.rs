//! The state that the clients of a faulty store share.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize};

use kv_core::Result;
use kv_core::backend::Lease;
use kv_memory::MemoryBackend;
use tokio::sync::mpsc;

use crate::known_locks::Locks;

/// One store, and what its clients leave in it.
#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) store: MemoryBackend,
    /// The queues of the watches for which writers wait.
    pub(crate) queues: Mutex<Vec<mpsc::WeakSender<Result<kv_core::Event>>>>,
    /// Leases that are never given back.
    pub(crate) kept: Mutex<Vec<Box<dyn Lease>>>,
    /// The names of all ephemeral keys so far.
    pub(crate) leased: Mutex<BTreeSet<String>>,
    pub(crate) writes: AtomicUsize,
    pub(crate) locks: Locks,
    pub(crate) handles: AtomicU64,
}
