//! A key that lives as long as it is renewed.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;

use crate::backend::Grant;
use crate::held::Held;
use crate::{Kv, Result};

/// A key that vanishes once its time to live lapses without renewal: from [`Kv::ephemeral_key`].
///
/// Dropping the handle removes the key in the background, best effort; its time to live covers the rest.
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
pub struct EphemeralKey {
    held: Held,
}

impl EphemeralKey {
    pub(crate) fn new(kv: Kv, key: &str, grant: Grant) -> Self {
        Self { held: Held::new(kv, key, grant) }
    }

    /// The key.
    pub fn key(&self) -> &str {
        self.held.key()
    }

    /// The time to live that was granted, at least the one asked for (clause L3).
    pub fn ttl(&self) -> Duration {
        self.held.ttl()
    }

    /// Renews, then writes the value; returns its new index (clause L2).
    ///
    /// # Errors
    /// [`Error::Lost`](crate::Error::Lost) if the key has expired or is another's by now, and nothing was written;
    /// [`Error::ValueTooLarge`](crate::Error::ValueTooLarge), and those [of every call](Kv#errors-of-every-call).
    pub async fn set(&self, data: impl Into<Bytes>) -> Result<u64> {
        self.held.set(data.into()).await
    }

    /// Starts the time to live anew.
    ///
    /// # Errors
    /// [`Error::Lost`](crate::Error::Lost) if the key has expired, and those
    /// [of every call](Kv#errors-of-every-call).
    pub async fn renew(&self) -> Result<()> {
        self.held.renew().await
    }

    /// Runs a future while renewing every third of the time to live, as [`Lock::hold`](crate::Lock::hold) does.
    ///
    /// # Errors
    /// [`Error::Lost`](crate::Error::Lost) if the key was lost before the future was done.
    pub async fn hold<F: Future>(&self, future: F) -> Result<F::Output> {
        self.held.hold(future).await
    }

    /// Removes the key now.
    ///
    /// Dropping the future, or an error other than `Lost`, leaves the rest to the background, as dropping the handle
    /// does.
    ///
    /// # Errors
    /// [`Error::Lost`](crate::Error::Lost) if the key has expired or is another's by now, and nothing was touched;
    /// and those [of every call](Kv#errors-of-every-call).
    pub async fn destroy(self) -> Result<()> {
        self.held.release("destroy").await
    }
}

impl std::fmt::Debug for EphemeralKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EphemeralKey").field("key", &self.key()).finish_non_exhaustive()
    }
}
