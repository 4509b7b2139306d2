//! A key that lives as long as it is renewed.

use std::time::Duration;

use bytes::Bytes;

use crate::Result;
use crate::backend::Grant;
use crate::caller::Caller;
use crate::holdings::Place;
use crate::lease_handle::LeaseHandle;

/// A key that vanishes once its time to live lapses without renewal: from
/// [`Kv::ephemeral_key`](crate::Kv::ephemeral_key).
///
/// Dropping the handle removes the key in the background, best effort. If that fails, it lapses with its time to live.
/// At the end of a process or a runtime nothing runs in the background: call [`Kv::close`](crate::Kv::close) before, or
/// the key stays until its time to live has passed ([clause L12](crate::contract::CLAUSES#L12)).
///
/// Other clients may read, list, watch and delete the key. What a plain write by another client does to it differs by
/// store: see [`Limits::foreign_write`](crate::Limits::foreign_write)
/// ([clause L2b](crate::contract::CLAUSES#L2b)).
///
/// A handle that is not kept is dropped at once, and the compiler warns of that:
///
/// ```compile_fail
/// #![deny(unused_must_use)]
/// # async fn example(kv: kv_core::Kv) -> kv_core::Result<()> {
/// kv.ephemeral_key("members/a", std::time::Duration::from_secs(15)).await?; // gone by the next line
/// # Ok(())
/// # }
/// ```
///
/// ```
/// # use std::time::Duration;
/// # async fn serve() {}
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> kv_core::Result<()> {
/// # let kv = kv_core::Registry::new().with(kv_memory::REGISTRATION).connect("memory://").await?;
/// let member = kv.ephemeral_key("members/a", Duration::from_secs(15)).await?;
/// member.set("10.0.0.1:80").await?;
/// member.hold(serve()).await?; // a member for as long as it serves
/// member.destroy().await
/// # }
/// ```
#[must_use = "the key is removed as soon as the handle is dropped: bind it, as in `let key = …`"]
pub struct EphemeralKey {
    lease: LeaseHandle,
}

impl EphemeralKey {
    pub(crate) fn new(caller: Caller, key: &str, grant: Grant, place: Place) -> Result<Self> {
        Ok(Self { lease: LeaseHandle::new(caller, key, grant, place)? })
    }

    /// The key.
    pub fn key(&self) -> &str {
        self.lease.key()
    }

    /// The time to live that was granted, at least the one asked for ([clause L3](crate::contract::CLAUSES#L3)).
    pub fn ttl(&self) -> Duration {
        self.lease.ttl()
    }

    /// Renews, then writes the value; returns its new index ([clause L2](crate::contract::CLAUSES#L2)).
    ///
    /// # Errors
    /// [`Error::Lost`](crate::Error::Lost) if the key has expired or belongs to another by now, and nothing was
    /// written; [`Error::ValueTooLarge`](crate::Error::ValueTooLarge), and those
    /// [of every call](crate::Kv#errors-of-every-call).
    pub async fn set(&self, data: impl Into<Bytes>) -> Result<u64> {
        self.lease.set(data.into()).await
    }

    /// Restarts the time to live.
    ///
    /// # Errors
    /// [`Error::Lost`](crate::Error::Lost) if the key has expired, and those
    /// [of every call](crate::Kv#errors-of-every-call).
    pub async fn renew(&self) -> Result<()> {
        self.lease.renew().await
    }

    /// Runs a future while renewing every third of the time to live, as [`Lock::hold`](crate::Lock::hold) does.
    ///
    /// # Errors
    /// [`Error::Lost`](crate::Error::Lost) if the key was lost before the future completed.
    pub async fn hold<F: Future>(&self, future: F) -> Result<F::Output> {
        self.lease.hold(future).await
    }

    /// Removes the key now.
    ///
    /// If the future is dropped, or fails with an error other than `Lost`, the key is removed in the background.
    ///
    /// # Errors
    /// [`Error::Lost`](crate::Error::Lost) if the key has expired or belongs to another by now, and nothing was
    /// touched; and those [of every call](crate::Kv#errors-of-every-call).
    pub async fn destroy(self) -> Result<()> {
        self.lease.release("destroy").await
    }
}

impl std::fmt::Debug for EphemeralKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EphemeralKey").field("key", &self.key()).finish_non_exhaustive()
    }
}
