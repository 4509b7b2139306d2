//! What locks and ephemeral keys have in common: the local deadline, renewal, release and `hold`.

use std::future::Future;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::backend::fate::Idempotence;
use crate::backend::{Grant, Guard, Lease};
use crate::clock::Moment;
use crate::{Error, Kv, Result, observability};

/// A granted lease with the clock that judges it (clause L6).
pub(crate) struct Held {
    kv: Kv,
    key: String,
    ttl: Duration,
    guard: Guard,
    /// When the last successful renewal began: a lease lives at least that long plus its time to live, so a handle
    /// that counts from there gives up before the store does, never after.
    since: Mutex<Moment>,
    /// Its loss is told once.
    loss: Once,
    /// Empty once released.
    lease: Option<Box<dyn Lease>>,
}

impl Held {
    pub(crate) fn new(kv: Kv, key: &str, grant: Grant) -> Self {
        let Grant { lease, ttl, since, guard } = grant;
        Self {
            kv,
            key: key.to_owned(),
            ttl,
            guard,
            since: Mutex::new(since.into()),
            loss: Once::new(),
            lease: Some(lease),
        }
    }

    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    pub(crate) fn ttl(&self) -> Duration {
        self.ttl
    }

    pub(crate) fn token(&self) -> u64 {
        self.guard.token
    }

    pub(crate) fn guard(&self) -> Result<Guard> {
        self.live().map(|_| self.guard.clone())
    }

    pub(crate) async fn renew(&self) -> Result<()> {
        let lease = self.live()?;
        let began = Moment::now();
        self.call("renew", Idempotence::Repeatable, lease.renew()).await?;
        self.renewed(began);
        Ok(())
    }

    pub(crate) async fn set(&self, data: Bytes) -> Result<u64> {
        let lease = self.live()?;
        self.kv.check_value(&self.key, &data)?;
        let began = Moment::now();
        let index = self.call("set", Idempotence::Once, lease.set(data)).await?;
        self.renewed(began);
        Ok(index)
    }

    /// Ends the lease; whatever did not end it is left to `drop`, which tries once more in the background.
    pub(crate) async fn release(mut self, verb: &'static str) -> Result<()> {
        let lease = self.live()?;
        let result = self.call(verb, Idempotence::Once, lease.release()).await;
        if matches!(&result, Ok(()) | Err(Error::Lost { .. })) {
            self.lease = None;
        }
        result
    }

    pub(crate) async fn hold<F: Future>(&self, future: F) -> Result<F::Output> {
        tokio::select! {
            // The lease first: work is not polled again once the lease is known to be lost.
            biased;
            lost = self.lapses() => Err(lost),
            lost = self.keep() => Err(lost),
            output = future => Ok(output),
        }
    }

    /// Says so once the time to live has lapsed, whenever it is polled: timers stand still while the machine is
    /// suspended, and what wakes the task afterwards may be something else.
    async fn lapses(&self) -> Error {
        std::future::poll_fn(|_| if self.has_lapsed() { Poll::Ready(self.lost()) } else { Poll::Pending }).await
    }

    /// Renews every third of the time to live until the lease is lost, and says how it was.
    async fn keep(&self) -> Error {
        let pause = self.ttl / 3;
        loop {
            let since = *self.since();
            tokio::time::sleep_until(since.timer() + pause).await;
            // A renewal that fails for another reason is repeated for as long as the lease may still stand.
            let deadline = since.timer() + self.ttl;
            while *self.since() == since {
                match tokio::time::timeout_at(deadline, self.renew()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) if error.is_lost() => return error,
                    Ok(Err(error)) => {
                        observability::lease_not_renewed(self.kv.backend_name(), &self.key, &error);
                        tokio::time::sleep_until(deadline.min(Instant::now() + pause / 8)).await;
                    }
                    Err(_elapsed) => return self.lost(),
                }
            }
        }
    }

    /// The lease, unless its time to live has lapsed by this process's clock.
    fn live(&self) -> Result<&dyn Lease> {
        self.lease.as_deref().filter(|_| !self.has_lapsed()).ok_or_else(|| self.lost())
    }

    fn has_lapsed(&self) -> bool {
        self.since().elapsed() >= self.ttl
    }

    async fn call<T>(
        &self,
        verb: &'static str,
        idempotence: Idempotence,
        future: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let result = self.kv.call(verb, &self.key, idempotence, future).await;
        if matches!(result, Err(Error::Lost { .. })) {
            self.tell_loss();
        }
        result
    }

    fn tell_loss(&self) {
        self.loss.call_once(|| observability::lease_lost(self.kv.backend_name(), &self.key));
    }

    fn lost(&self) -> Error {
        self.tell_loss();
        Error::Lost { key: self.key.clone() }
    }

    fn renewed(&self, began: Moment) {
        let mut since = self.since();
        // Of two renewals at a time the one that began later counts, whichever ends first.
        *since = began.max(*since);
    }

    fn since(&self) -> MutexGuard<'_, Moment> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(lease) = self.lease.take() else { return };
        // Without a runtime nothing can be sent; the time to live frees the key.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (kv, key) = (self.kv.clone(), std::mem::take(&mut self.key));
            runtime.spawn(async move {
                match kv.call("release", &key, Idempotence::Once, lease.release()).await {
                    Ok(()) | Err(Error::Lost { .. }) => {}
                    Err(error) => observability::lease_left_to_lapse(kv.backend_name(), &key, &error),
                }
            });
        }
    }
}

#[cfg(test)]
mod tests;
