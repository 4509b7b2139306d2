//! What locks and ephemeral keys have in common: the local deadline, renewal, release and `hold`.

use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError, Weak};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use crate::backend::fate::Idempotence;
use crate::backend::{Grant, Guard, Lease};
use crate::caller::Caller;
use crate::clock::Moment;
use crate::holdings::{GiveBack, Place};
use crate::{Error, Result, observability};

/// A granted lease as a lock or an ephemeral key has it. Dropping it releases the lease in the background.
pub(crate) struct LeaseHandle {
    held: Arc<Held>,
}

/// A granted lease with the clock that decides whether it still stands ([clause L6](crate::contract::CLAUSES#L6)).
struct Held {
    caller: Caller,
    key: String,
    ttl: Duration,
    guard: Guard,
    /// When the last successful renewal began. The store counts the time to live from a later moment, so this side
    /// gives up first.
    since: Mutex<Moment>,
    /// The loss is reported once.
    loss: Once,
    /// Dropped before the place: what it gives back is given back when the place is free.
    lease: Box<dyn Lease>,
    place: Place,
}

impl LeaseHandle {
    /// # Errors
    /// [`Error::Closed`] if `close` has begun since the lease was asked for; the lease is released in the background.
    pub(crate) fn new(caller: Caller, key: &str, grant: Grant, place: Place) -> Result<Self> {
        let Grant { lease, ttl, since, guard } = grant;
        let (key, since, loss) = (key.to_owned(), Mutex::new(since), Once::new());
        let lasts = (!lease.is_given_back_on_drop()).then(|| caller.lasts(ttl));
        let handle = Self { held: Arc::new(Held { caller, key, ttl, guard, since, loss, lease, place }) };
        let held: Weak<Held> = Arc::downgrade(&handle.held);
        handle.held.place.hold(held, lasts).map_err(|error| handle.held.caller.located(error, "", ""))?;
        Ok(handle)
    }

    pub(crate) fn key(&self) -> &str {
        &self.held.key
    }

    pub(crate) fn ttl(&self) -> Duration {
        self.held.ttl
    }

    pub(crate) fn token(&self) -> u64 {
        self.held.guard.token
    }

    /// What the store that `writer` writes needs to check that the lease still stands.
    ///
    /// A store of another kind cannot check it. A store of the same kind recognises its own locks by the guard's owner,
    /// which no other store has.
    pub(crate) fn guard(&self, writer: &Caller) -> Result<Guard> {
        let (held, backend) = (self.held.caller.backend_name(), writer.backend_name());
        if held != backend {
            return Err(Error::ForeignLock { key: self.held.key.clone(), held, backend });
        }
        self.held.live().map(|_| self.held.guard.clone())
    }

    pub(crate) async fn renew(&self) -> Result<()> {
        self.held.renew().await
    }

    pub(crate) async fn set(&self, data: Bytes) -> Result<u64> {
        self.held.set(data).await
    }

    /// Ends the lease. After a failure `drop` tries once more in the background.
    pub(crate) async fn release(self, verb: &'static str) -> Result<()> {
        self.held.live()?;
        self.held.release(verb).await
    }

    pub(crate) async fn hold<F: Future>(&self, future: F) -> Result<F::Output> {
        tokio::select! {
            // The lease first, so that the work is not polled again once the lease is known to be lost.
            biased;
            lost = self.held.lapses() => Err(lost),
            () = self.held.place.closing() => Err(self.held.lost()),
            lost = self.held.keep_alive() => Err(lost),
            output = future => Ok(output),
        }
    }
}

impl Held {
    async fn renew(&self) -> Result<()> {
        let lease = self.live()?;
        let began = Moment::now();
        self.call("renew", Idempotence::Repeatable, lease.renew()).await?;
        self.renewed(began);
        Ok(())
    }

    async fn set(&self, data: Bytes) -> Result<u64> {
        let lease = self.live()?;
        self.caller.check_value(&self.key, &data)?;
        let began = Moment::now();
        let index = self.call("set", Idempotence::Once, lease.set(data)).await?;
        self.renewed(began);
        Ok(index)
    }

    async fn release(&self, verb: &'static str) -> Result<()> {
        let result = self.call(verb, Idempotence::Once, self.lease.release()).await;
        if matches!(&result, Ok(()) | Err(Error::Lost { .. })) {
            self.place.given_back();
        }
        result
    }

    /// Releases the lease of a dropped handle.
    async fn release_in_background(&self) {
        // Nobody waits for it, so it has time even if the handle's calls have little.
        let caller = self.caller.in_background();
        match caller.call("release", &self.key, Idempotence::Once, self.lease.release()).await {
            Ok(()) | Err(Error::Lost { .. }) => self.place.given_back(),
            // The connection broke because the runtime ends. An operator can do nothing about it.
            Err(_) if runtime_ends().await => {}
            Err(error) => observability::lease_left_to_lapse(self.caller.backend_name(), &self.key, &error),
        }
    }

    /// Ends once the time to live has lapsed, whenever it is polled: timers stand still while the machine is
    /// suspended, and what wakes the task afterwards may be something else.
    async fn lapses(&self) -> Error {
        std::future::poll_fn(|_| if self.has_lapsed() { Poll::Ready(self.lost()) } else { Poll::Pending }).await
    }

    /// Renews every third of the time to live until the lease is lost, and returns the error that says so.
    async fn keep_alive(&self) -> Error {
        let (pause, mut failures) = (self.ttl / 3, 0);
        loop {
            let since = *self.since();
            tokio::time::sleep_until(since.timer() + pause).await;
            // A renewal that fails for another reason is repeated while the lease may still stand.
            let deadline = since.timer() + self.ttl;
            while *self.since() == since {
                match tokio::time::timeout_at(deadline, self.renew()).await {
                    Ok(Ok(())) if failures > 0 => {
                        observability::lease_renewed_again(self.caller.backend_name(), &self.key, failures);
                        failures = 0;
                    }
                    Ok(Ok(())) => {}
                    Ok(Err(error)) if error.is_lost() => return error,
                    Ok(Err(error)) => {
                        failures += 1;
                        observability::lease_not_renewed(self.caller.backend_name(), &self.key, failures, &error);
                        tokio::time::sleep_until(deadline.min(Instant::now() + pause / 8)).await;
                    }
                    Err(_elapsed) => return self.lost(),
                }
            }
        }
    }

    /// The lease, unless its time to live has lapsed by this process's clock.
    fn live(&self) -> Result<&dyn Lease> {
        if self.has_lapsed() || !self.place.is_open() { Err(self.lost()) } else { Ok(&*self.lease) }
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
        // A lease that `close` gives back is no event for an operator.
        if !self.place.is_open() {
            return;
        }
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

/// For [`Kv::close`](crate::Kv::close).
impl GiveBack for Held {
    fn give_back(self: Arc<Self>) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move {
            match self.release("release").await {
                Err(Error::Lost { .. }) => Ok(()),
                result => result,
            }
        })
    }
}

impl Drop for LeaseHandle {
    fn drop(&mut self) {
        // Without a runtime nothing can be sent, and the time to live frees the key.
        if let Ok(runtime) = tokio::runtime::Handle::try_current()
            && self.held.place.begin_release()
        {
            let held = Arc::clone(&self.held);
            runtime.spawn(async move { held.release_in_background().await });
        }
    }
}

/// Whether the runtime of the current task is shutting down: then it starts no task any more.
async fn runtime_ends() -> bool {
    tokio::spawn(async {}).await.is_err_and(|error| error.is_cancelled())
}

#[cfg(test)]
mod tests;
