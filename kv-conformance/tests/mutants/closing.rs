//! Stores that are not closed well.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kv_core::backend::{Backend as _, Grant, Lease};
use kv_core::{Error, Result};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::fault::Fault;
use crate::store::Faulty;

/// How much later than they say these stores give something back.
const LATE: Duration = Duration::from_secs(1);

impl Faulty {
    pub(crate) async fn close_badly(&self) -> Result<()> {
        if self.has(Fault::CloseFails) {
            return Err(Error::unavailable("it cannot be closed"));
        }
        self.store().close().await
    }

    /// Waits for a lock with a place that outlives the wait for a while, and that closing does not wait for.
    pub(crate) async fn lock_with_late_end(&self, key: &str, ttl: Duration) -> Result<Grant> {
        let (store, key) = (self.store().clone(), key.to_owned());
        let mut place = LatePlace(Some(tokio::spawn(async move { store.lock(&key, ttl).await })));
        let ended = match place.0.as_mut() {
            Some(waiting) => waiting.await,
            None => unreachable!("it is taken only when dropped"),
        };
        place.0 = None;
        ended.unwrap_or_else(|_| Err(Error::unavailable("the wait has ended")))
    }
}

struct LatePlace(Option<JoinHandle<Result<Grant>>>);

impl Drop for LatePlace {
    fn drop(&mut self) {
        if let Some(waiting) = self.0.take()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(async move {
                tokio::time::sleep(LATE).await;
                waiting.abort();
            });
        }
    }
}

/// A lease that is released some time after it says so.
pub(crate) struct ReleasedLate(Arc<dyn Lease>);

impl ReleasedLate {
    pub(crate) fn new(lease: Box<dyn Lease>) -> Self {
        Self(lease.into())
    }
}

#[async_trait]
impl Lease for ReleasedLate {
    async fn renew(&self) -> Result<()> {
        self.0.renew().await
    }

    async fn set(&self, data: Bytes) -> Result<u64> {
        self.0.set(data).await
    }

    async fn release(&self) -> Result<()> {
        let lease = self.0.clone();
        tokio::spawn(async move {
            tokio::time::sleep(LATE).await;
            lease.release().await
        });
        Ok(())
    }
}
