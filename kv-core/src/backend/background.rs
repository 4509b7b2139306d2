//! Work in the background that gives back what a backend took in the store.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::watch;

/// The tasks that give something back in the background, such as the lease of a call whose future was dropped.
///
/// [`Backend::close`](super::Backend::close) waits until none is left
/// ([clause L12](crate::contract::CLAUSES#L12)). Clones share one count.
///
/// ```
/// # use kv_core::backend::background::Background;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// # async fn revoke() {}
/// let background = Background::new();
/// background.spawn(async { revoke().await });
/// background.settled().await;
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Background(Arc<watch::Sender<usize>>);

impl Background {
    /// Starts without tasks.
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }

    /// Starts a task on the current runtime. Outside a runtime nothing can be sent, so the work is dropped, and the
    /// time to live frees what was taken.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let Ok(runtime) = Handle::try_current() else { return };
        // Counted before the task exists. The task owns it, so a runtime that ends drops both.
        let running = Running::new(&self.0);
        runtime.spawn(async move {
            let _running = running;
            work.await;
        });
    }

    /// Waits until no task is left, on any runtime. A task that was dropped with its runtime does not count.
    ///
    /// A task on a runtime that is not driven never ends, so limit the wait.
    pub async fn settled(&self) {
        // The sender lives as long as `self`, so this ends only when the condition holds.
        let _ = self.0.subscribe().wait_for(|running| *running == 0).await;
    }
}

impl Default for Background {
    fn default() -> Self {
        Self::new()
    }
}

/// One task, until it is dropped.
struct Running(Arc<watch::Sender<usize>>);

impl Running {
    fn new(count: &Arc<watch::Sender<usize>>) -> Self {
        count.send_modify(|running| *running += 1);
        Self(Arc::clone(count))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.send_modify(|running| *running -= 1);
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use futures_util::FutureExt as _;
    use tokio::sync::oneshot;

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime")
    }

    #[tokio::test]
    async fn it_settles_once_every_task_has_ended() {
        let background = Background::new();
        background.settled().await;
        let (end, ended) = oneshot::channel::<()>();
        background.clone().spawn(async move { drop(ended.await) });
        background.spawn(async {});
        let mut settled = Box::pin(background.settled());
        tokio::task::yield_now().await;
        assert!(settled.as_mut().now_or_never().is_none(), "one task still runs");
        drop(end);
        settled.await;
    }

    #[test]
    fn a_task_that_ends_with_its_runtime_is_settled_in_another() {
        let background = Background::new();
        let (one, other) = (runtime(), runtime());
        one.block_on(async { background.spawn(pending()) });
        assert!(other.block_on(async { background.settled().now_or_never() }).is_none());
        drop(one);
        other.block_on(background.settled());
    }

    #[test]
    fn without_a_runtime_nothing_is_started() {
        let background = Background::new();
        background.spawn(pending());
        assert!(background.settled().now_or_never().is_some());
    }
}
