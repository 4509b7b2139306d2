//! Runtimes beside the one in which the suite runs.

use std::sync::mpsc;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

use crate::outcome::{Broke, Outcome};

type Job = Box<dyn FnOnce(&Runtime) + Send>;

/// A current-thread runtime on a thread of its own. It is driven while [`run`](Self::run) runs a future. Otherwise it
/// is idle: its tasks, timers and connections make no progress.
///
/// Dropping it ends the runtime in the background.
pub(crate) struct Apart {
    jobs: mpsc::Sender<Job>,
    ended: oneshot::Receiver<()>,
    patience: Duration,
}

impl Apart {
    /// Starts a runtime. A future that takes longer than `patience` there counts as hanging.
    pub(crate) fn new(patience: Duration) -> Outcome<Self> {
        let failed = |error: std::io::Error| Broke { clause: None, what: format!("there is no runtime: {error}") };
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let (jobs, todo) = mpsc::channel::<Job>();
        let (end, ended) = oneshot::channel();
        std::thread::spawn(move || {
            while let Ok(job) = todo.recv() {
                job(&runtime);
            }
            drop(runtime);
            let _ = end.send(());
        });
        Ok(Self { jobs, ended, patience })
    }

    /// Runs a future to its end in that runtime, without blocking the caller's thread.
    /// [S1](kv_core::contract::CLAUSES#S1) is broken if it hangs or panics.
    pub(crate) async fn run<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> Outcome<T> {
        let (sender, receiver) = oneshot::channel();
        let job: Job = Box::new(move |runtime| {
            let _ = sender.send(runtime.block_on(future));
        });
        let gone = || Broke::new("S1", "what ran in another runtime panicked");
        self.jobs.send(job).map_err(|_| gone())?;
        let result = tokio::time::timeout(self.patience, receiver).await;
        let late =
            |_| Broke::new("S1", format!("what runs in another runtime has not ended within {:?}", self.patience));
        result.map_err(late)?.map_err(|_| gone())
    }

    /// Ends the runtime, and returns when everything in it is gone.
    pub(crate) async fn end(self) -> Outcome {
        drop(self.jobs);
        let ended = tokio::time::timeout(self.patience, self.ended).await;
        let late = |_| Broke::new("S1", format!("a runtime has not ended within {:?}", self.patience));
        ended.map_err(late)?.map_err(|_| Broke::new("S1", "a runtime panicked when it ended"))
    }
}
