//! Waiting in tests of a backend: for what should happen soon, or for a condition to hold.
//!
//! Both fail the test with what it waited for. Only a fault reaches their generous deadline, never a slow machine. A
//! test that needs a relay between a client and a server finds one in [`chaos::proxy`](crate::chaos::proxy).

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

/// Upper bound of every wait; reached only when the test fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How long [`until`] pauses between two checks.
const POLL: Duration = Duration::from_millis(20);

/// Returns the future's output.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use kv_conformance::testing::soon;
///
/// let kv = kv_core::Registry::new().with(kv_memory::REGISTRATION).connect("memory://").await.expect("a store");
/// soon("the store answers", kv.ping()).await.expect("it serves");
/// # }
/// ```
///
/// # Panics
/// If there is no output within [`PATIENCE`].
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

/// Checks a condition repeatedly until it holds, where no event announces it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use kv_conformance::testing::until;
///
/// let kv = kv_core::Registry::new().with(kv_memory::REGISTRATION).connect("memory://").await.expect("a store");
/// let writing = tokio::spawn({
///     let kv = kv.clone();
///     async move { kv.set("key", "value").await }
/// });
/// until("the key is there", async || kv.get("key").await.is_ok()).await;
/// # writing.await.expect("no panic").expect("written");
/// # }
/// ```
///
/// # Panics
/// If the condition does not hold within [`PATIENCE`].
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !soon(what, holds()).await {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        sleep(POLL).await;
    }
}
