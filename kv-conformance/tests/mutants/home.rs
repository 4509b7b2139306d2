//! The runtime that used a client first, and the work that only its tasks do.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use kv_core::backend::{Lease, Txn};
use kv_core::{Error, Result};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use crate::known_locks::lock;

/// A write that a task makes for a caller.
pub(crate) type Write = (Txn, oneshot::Sender<Result<Option<u64>>>);

/// The state that the callers of one client share, and the runtime that used the client first.
#[derive(Default)]
pub(crate) struct Sharing {
    home: Mutex<Option<Handle>>,
    pub(crate) writes: Mutex<Option<mpsc::UnboundedSender<Write>>>,
    /// Calls that were dropped or refused, and that have not made another call fail yet.
    pub(crate) unpaid: AtomicUsize,
    /// Waits for a lock that have begun and were not granted.
    pub(crate) waits: AtomicUsize,
}

impl Sharing {
    pub(crate) fn home(&self) -> Handle {
        lock(&self.home).get_or_insert_with(Handle::current).clone()
    }
}

/// A lease that only a task of the runtime that took it gives back.
pub(crate) struct ReleasedAtHome {
    lease: Arc<dyn Lease>,
    releases: mpsc::UnboundedSender<oneshot::Sender<Result<()>>>,
}

impl ReleasedAtHome {
    pub(crate) fn new(lease: Box<dyn Lease>) -> Self {
        let lease: Arc<dyn Lease> = lease.into();
        let (releases, mut asked) = mpsc::unbounded_channel::<oneshot::Sender<Result<()>>>();
        let taken = lease.clone();
        // One handle is leaked, because dropping the last one would give the lease back as well.
        std::mem::forget(lease.clone());
        tokio::spawn(async move {
            while let Some(done) = asked.recv().await {
                let _ = done.send(taken.release().await);
            }
        });
        Self { lease, releases }
    }
}

#[async_trait]
impl Lease for ReleasedAtHome {
    async fn renew(&self) -> Result<()> {
        self.lease.renew().await
    }

    async fn set(&self, data: Bytes) -> Result<u64> {
        self.lease.set(data).await
    }

    async fn release(&self) -> Result<()> {
        let (done, released) = oneshot::channel();
        self.releases.send(done).map_err(|_| Error::unavailable("the task is gone"))?;
        released.await.unwrap_or_else(|_| Err(Error::unavailable("the task is gone")))
    }
}
