//! Faults of a client that is shared by several runtimes or callers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use kv_core::backend::{Backend as _, EventStream, Grant, Txn};
use kv_core::{Error, Result};
use tokio::sync::{mpsc, oneshot};

use crate::fault::Fault;
use crate::home::Write;
use crate::known_locks::lock;
use crate::store::Faulty;

/// Counts a call that is dropped while it waits.
struct Dropped<'a>(&'a AtomicUsize, bool);

impl Drop for Dropped<'_> {
    fn drop(&mut self) {
        if !self.1 {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Faulty {
    /// Writes through a task of the runtime that used this client first.
    pub(crate) async fn write_at_home(&self, txn: Txn) -> Result<Option<u64>> {
        let start = || {
            let (sender, mut writes) = mpsc::unbounded_channel::<Write>();
            let store = self.store().clone();
            self.sharing.home().spawn(async move {
                while let Some((txn, done)) = writes.recv().await {
                    let _ = done.send(store.commit(txn).await);
                }
            });
            sender
        };
        let sender = lock(&self.sharing.writes).get_or_insert_with(start).clone();
        let (done, result) = oneshot::channel();
        sender.send((txn, done)).map_err(|_| Error::unavailable("the task that writes is gone"))?;
        result.await.unwrap_or_else(|_| Err(Error::indeterminate("the task that writes is gone")))
    }

    /// A write that fails if another call was dropped or refused in the meantime.
    pub(crate) async fn pay_for_others(&self, txn: Txn) -> Result<Option<u64>> {
        if self.sharing.unpaid.swap(0, Ordering::Relaxed) > 0 {
            return Err(Error::indeterminate("the connection was lost for another caller's sake"));
        }
        let result = self.store().commit(txn).await;
        if self.has(Fault::RefusalsFailOthers) && result.as_ref().is_err_and(Error::is_conflict) {
            self.sharing.unpaid.fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    /// Leaves time in which a read may be dropped, which then makes another call fail.
    pub(crate) async fn may_be_dropped(&self) {
        if self.has(Fault::CancelledCallsFailOthers) {
            let mut counted = Dropped(&self.sharing.unpaid, false);
            // It yields twice, because a call is polled again at once when its time limit begins.
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            counted.1 = true;
        }
    }

    /// Waits for a lock behind all waits for any lock, also abandoned ones.
    pub(crate) async fn lock_in_one_queue(&self, key: &str, ttl: Duration) -> Result<Grant> {
        while self.sharing.waits.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.sharing.waits.fetch_add(1, Ordering::Relaxed);
        let grant = self.store().lock(key, ttl).await;
        self.sharing.waits.fetch_sub(1, Ordering::Relaxed);
        grant
    }

    /// Events that are passed on by a task of the runtime that used this client first.
    pub(crate) fn pass_on(&self, mut events: EventStream) -> EventStream {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.sharing.home().spawn(async move {
            while let Some(event) = events.next().await {
                if sender.send(event).is_err() {
                    return;
                }
            }
        });
        stream::unfold(receiver, |mut receiver| async { receiver.recv().await.map(|event| (event, receiver)) }).boxed()
    }
}
