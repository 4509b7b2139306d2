//! A held lock.

use std::time::Duration;

use crate::Result;
use crate::backend::{Grant, Guard};
use crate::caller::Caller;
use crate::holdings::Place;
use crate::lease_handle::LeaseHandle;

/// A lock that this handle holds: from [`Kv::lock`](crate::Kv::lock) or [`Kv::try_lock`](crate::Kv::try_lock).
///
/// At most one handle holds a lock as the *store* sees it ([clause L4](crate::contract::CLAUSES#L4)). No lock service
/// can promise more: a process that was paused may continue to write after its lock has passed to another. Two
/// things help. The store refuses such writes in a transaction with [`held`](crate::TxnBuilder::held); or the protected
/// resource is given the [`token`](Self::token) and refuses tokens smaller than one it has seen.
///
/// Dropping the handle frees the lock in the background, best effort. [`unlock`](Self::unlock) also reports whether it
/// was still held. At the end of a process or a runtime nothing runs in the background: call
/// [`Kv::close`](crate::Kv::close) before, or the lock stays taken until its time to live has passed ([clause
/// L12](crate::contract::CLAUSES#L12)). A handle that is not kept is dropped at once, and the compiler warns of that:
///
/// ```compile_fail
/// #![deny(unused_must_use)]
/// # async fn example(kv: kv_core::Kv) -> kv_core::Result<()> {
/// kv.lock("locks/leader", std::time::Duration::from_secs(15)).await?; // not held by the next line
/// # Ok(())
/// # }
/// ```
///
/// ```
/// # use std::time::Duration;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> kv_core::Result<()> {
/// # let kv = kv_core::Registry::new().with(kv_memory::REGISTRATION).connect("memory://").await?;
/// let lock = kv.lock("locks/leader", Duration::from_secs(15)).await?;
/// let term = lock.token().to_string();
/// lock.hold(async {
///     // Refused by the store itself, with `Lost`, once the lock has passed on.
///     kv.txn().held(&lock).set("leader/term", term).commit().await
/// })
/// .await??;
/// lock.unlock().await
/// # }
/// ```
#[must_use = "the lock is freed as soon as the handle is dropped: bind it, as in `let lock = …`"]
pub struct Lock {
    lease: LeaseHandle,
}

impl Lock {
    pub(crate) fn new(caller: Caller, key: &str, grant: Grant, place: Place) -> Result<Self> {
        Ok(Self { lease: LeaseHandle::new(caller, key, grant, place)? })
    }

    /// The key that is locked.
    pub fn key(&self) -> &str {
        self.lease.key()
    }

    /// The time to live that was granted, at least the one asked for ([clause L3](crate::contract::CLAUSES#L3)).
    pub fn ttl(&self) -> Duration {
        self.lease.ttl()
    }

    /// The fencing token: strictly greater for each later holder of the same key
    /// ([clause L5](crate::contract::CLAUSES#L5)).
    pub fn token(&self) -> u64 {
        self.lease.token()
    }

    /// Restarts the time to live.
    ///
    /// # Errors
    /// [`Error::Lost`](crate::Error::Lost) if the lock is no longer held, and those
    /// [of every call](crate::Kv#errors-of-every-call).
    pub async fn renew(&self) -> Result<()> {
        self.lease.renew().await
    }

    /// Runs a future while renewing every third of the time to live ([clause L8](crate::contract::CLAUSES#L8)).
    ///
    /// If the lease is lost, the future is dropped. Renewal runs in this task: a future that blocks the thread stops
    /// it, and nothing continues after `hold` has returned or was dropped.
    ///
    /// # Errors
    /// [`Error::Lost`](crate::Error::Lost) if the lock was lost before the future completed.
    pub async fn hold<F: Future>(&self, future: F) -> Result<F::Output> {
        self.lease.hold(future).await
    }

    /// Frees the lock at once ([clause L7](crate::contract::CLAUSES#L7)).
    ///
    /// If the future is dropped, or fails with an error other than `Lost`, the lock is freed in the background.
    ///
    /// # Errors
    /// [`Error::Lost`](crate::Error::Lost) if it was no longer held, and those
    /// [of every call](crate::Kv#errors-of-every-call).
    pub async fn unlock(self) -> Result<()> {
        self.lease.release("unlock").await
    }

    /// What the store needs to check that the lock is held; `Lost` if it has lapsed by this process's clock.
    pub(crate) fn guard(&self, writer: &Caller) -> Result<Guard> {
        self.lease.guard(writer)
    }
}

impl std::fmt::Debug for Lock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lock").field("key", &self.key()).field("token", &self.token()).finish_non_exhaustive()
    }
}
