//! What locks and ephemeral keys have in common: the local deadline, renewal, release and `hold`.

use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::backend::fate::Idempotence;
use crate::backend::{Grant, Guard, Lease};
use crate::caller::Caller;
use crate::clock::Moment;
use crate::{Error, Result, observability};

/// A granted lease with the clock that decides whether it still stands (clause L6).
pub(crate) struct LeaseHandle {
    caller: Caller,
    key: String,
    ttl: Duration,
    guard: Guard,
    /// When the last successful renewal began. The store counts the time to live from a later moment, so this side
    /// gives up first.
    since: Mutex<Moment>,
    /// The loss is reported once.
    loss: Once,
    /// None once it is released.
    lease: Option<Box<dyn Lease>>,
}

impl LeaseHandle {
    pub(crate) fn new(caller: Caller, key: &str, grant: Grant) -> Self {
        let Grant { lease, ttl, since, guard } = grant;
        Self {
            caller,
            key: key.to_owned(),
            ttl,
            guard,
            since: Mutex::new(since),
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

    /// What the store that `writer` writes needs to check that the lease still stands.
    ///
    /// A store of another kind cannot tell. Whether one of the same kind is the same store is told by the guard's
    /// owner, which no other store has.
    pub(crate) fn guard(&self, writer: &Caller) -> Result<Guard> {
        let (held, backend) = (self.caller.backend_name(), writer.backend_name());
        if held != backend {
            return Err(Error::ForeignLock { key: self.key.clone(), held, backend });
        }
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
        self.caller.check_value(&self.key, &data)?;
        let began = Moment::now();
        let index = self.call("set", Idempotence::Once, lease.set(data)).await?;
        self.renewed(began);
        Ok(index)
    }

    /// Ends the lease. After a failure `drop` tries once more in the background.
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
            // The lease first, so that the work is not polled again once the lease is known to be lost.
            biased;
            lost = self.lapses() => Err(lost),
            lost = self.keep_alive() => Err(lost),
            output = future => Ok(output),
        }
    }

    /// Ends once the time to live has lapsed, whenever it is polled: timers stand still while the machine is
    /// suspended, and what wakes the task afterwards may be something else.
    async fn lapses(&self) -> Error {
        std::future::poll_fn(|_| if self.has_lapsed() { Poll::Ready(self.lost()) } else { Poll::Pending }).await
    }

    /// Renews every third of the time to live until the lease is lost, and returns the error that says so.
    async fn keep_alive(&self) -> Error {
        let pause = self.ttl / 3;
        loop {
            let since = *self.since();
            tokio::time::sleep_until(since.timer() + pause).await;
            // A renewal that fails for another reason is repeated while the lease may still stand.
            let deadline = since.timer() + self.ttl;
            while *self.since() == since {
                match tokio::time::timeout_at(deadline, self.renew()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) if error.is_lost() => return error,
                    Ok(Err(error)) => {
                        observability::lease_not_renewed(self.caller.backend_name(), &self.key, &error);
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
        let result = self.caller.call(verb, &self.key, idempotence, future).await;
        if matches!(result, Err(Error::Lost { .. })) {
            self.report_loss();
        }
        result
    }

    fn report_loss(&self) {
        self.loss.call_once(|| observability::lease_lost(self.caller.backend_name(), &self.key));
    }

    fn lost(&self) -> Error {
        self.report_loss();
        Error::Lost { key: self.key.clone() }
    }

    fn renewed(&self, began: Moment) {
        let mut since = self.since();
        // Of two concurrent renewals the one that began later counts, whichever ends first.
        *since = began.max(*since);
    }

    fn since(&self) -> MutexGuard<'_, Moment> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for LeaseHandle {
    fn drop(&mut self) {
        let Some(lease) = self.lease.take() else { return };
        // Without a runtime nothing can be sent, and the time to live frees the key.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (caller, key) = (self.caller.clone(), std::mem::take(&mut self.key));
            runtime.spawn(async move {
                match caller.call("release", &key, Idempotence::Once, lease.release()).await {
                    Ok(()) | Err(Error::Lost { .. }) => {}
                    Err(error) => observability::lease_left_to_lapse(caller.backend_name(), &key, &error),
                }
            });
        }
    }
}

#[cfg(test)]
mod tests;
