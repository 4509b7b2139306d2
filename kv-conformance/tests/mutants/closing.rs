//! Stores with a fault in closing.

use std::time::Duration;

use kv_core::backend::{Backend as _, Grant};
use kv_core::{Error, Result};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::fault::Fault;
use crate::late::LATE;
use crate::store::Faulty;

impl Faulty {
    pub(crate) async fn close_badly(&self) -> Result<()> {
        if self.has(Fault::CloseFails) {
            return Err(Error::unavailable("it cannot be closed"));
        }
        self.store().close().await
    }

    /// Waits for a lock with a place that outlives the wait for a while. Closing does not wait for that place.
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
