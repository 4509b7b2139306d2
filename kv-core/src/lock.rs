//! A held lock.

use std::future::Future;
use std::time::Duration;

use crate::backend::{Grant, Guard};
use crate::held::Held;
use crate::{Kv, Result};

/// A lock that this handle holds: from [`Kv::lock`] or [`Kv::try_lock`].
///
/// At most one handle holds a lock as the *store* sees it (clause L4). No lock service can promise more: a process
/// that was paused may go on writing after its lock has passed to another. So either let the store refuse such
/// writes, with [`held`](crate::TxnBuilder::held), or give [`token`](Self::token) to what the lock protects and
/// let that refuse smaller tokens than it has seen.
///
/// Dropping the handle frees the lock in the background, best effort; [`unlock`](Self::unlock) tells whether it was
/// still held.
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
pub struct Lock {
    held: Held,
}

impl Lock {
    pub(crate) fn new(kv: Kv, key: &str, grant: Grant) -> Self {
        Self { held: Held::new(kv, key, grant) }
    }

    /// The key that is locked.
    pub fn key(&self) -> &str {
        self.held.key()
    }

    /// The time to live that was granted, at least the one asked for (clause L3).
    pub fn ttl(&self) -> Duration {
        self.held.ttl()
    }

    /// The fencing token: strictly greater for each later holder of the same key (clause L5).
    pub fn token(&self) -> u64 {
        self.held.token()
    }

    /// Starts the time to live anew.
    ///
    /// # Errors
    /// [`Error::Lost`](crate::Error::Lost) if the lock is no longer held, and those
    /// [of every call](Kv#errors-of-every-call).
    pub async fn renew(&self) -> Result<()> {
        self.held.renew().await
    }

    /// Runs a future while renewing every third of the time to live (clause L8).
    ///
    /// If the lease is lost the future is dropped where it stands. Renewal happens in this task, so a future that
    /// blocks the thread stops it; nothing runs on after `hold` has returned or was dropped.
    ///
    /// # Errors
    /// [`Error::Lost`](crate::Error::Lost) if the lock was lost before the future was done.
    pub async fn hold<F: Future>(&self, future: F) -> Result<F::Output> {
        self.held.hold(future).await
    }

    /// Frees the lock at once (clause L7).
    ///
    /// Dropping the future, or an error other than `Lost`, leaves the rest to the background, as dropping the handle
    /// does.
    ///
    /// # Errors
    /// [`Error::Lost`](crate::Error::Lost) if it was no longer held, and those
    /// [of every call](Kv#errors-of-every-call).
    pub async fn unlock(self) -> Result<()> {
        self.held.release("unlock").await
    }

    /// What the store needs to check that the lock is held; `Lost` if it has lapsed by this process's clock.
    pub(crate) fn guard(&self) -> Result<Guard> {
        self.held.guard()
    }
}

impl std::fmt::Debug for Lock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lock").field("key", &self.key()).field("token", &self.token()).finish_non_exhaustive()
    }
}
