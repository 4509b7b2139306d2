//! The task that has all watches of one runtime on one stream, and resumes them after a failure
//! ([clause E4](kv_core::contract::CLAUSES#E4)).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kv_core::backend::backoff::{Backoff, Recovery};
use kv_core::{Error, Result};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use super::entry::{Command, Watch, Watches};
use super::events::Events;
use super::stream::{self, End};
use crate::api::range::Range;
use crate::config::NAME;
use crate::transport::client::Client;

/// The bounds of the pauses before the stream is opened again.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Opens watches. Dropping it ends them all.
pub(super) struct Hub {
    commands: UnboundedSender<Command>,
    next_id: AtomicU64,
    task: AbortHandle,
}

impl Hub {
    pub(super) fn start(client: Arc<Client>) -> Self {
        let (commands, receiver) = unbounded_channel();
        let task = tokio::spawn(run(client, receiver)).abort_handle();
        Self { commands, next_id: AtomicU64::new(1), task }
    }

    /// Opens a watch from revision `next` on; returns once the server has confirmed it.
    pub(super) async fn open(&self, range: Range, next: i64) -> Result<Events> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (events, sink) = Events::new(id, self.commands.clone());
        let (opened, confirmed) = oneshot::channel();
        let watch = Watch::new(range, next, sink, opened);
        let gone = || Error::unavailable("the task of the watches has ended");
        self.commands.send(Command::Open(id, watch)).map_err(|_| gone())?;
        confirmed.await.map_err(|_| gone())??;
        Ok(events)
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(client: Arc<Client>, mut commands: UnboundedReceiver<Command>) {
    let mut watches = Watches::new();
    let mut recovery = Recovery::new(NAME, "watch", Backoff::new(FIRST_PAUSE, LONGEST_PAUSE));
    loop {
        // Stopped watches need no stream.
        while watches.values().all(|watch| watch.stopped) {
            let Some(command) = commands.recv().await else { return };
            note(&mut watches, command);
        }
        match stream::run(&client, &mut watches, &mut commands, &mut recovery).await {
            End::Idle => {}
            End::Gone => return,
            End::Denied(reason) => {
                for (_, watch) in watches.drain() {
                    watch.fail(Error::permission_denied(reason.clone()));
                }
            }
            End::Failed(reason) => {
                let resume = Instant::now() + recovery.failed(&reason);
                loop {
                    tokio::select! {
                        () = sleep_until(resume) => break,
                        command = commands.recv() => match command {
                            Some(command) => note(&mut watches, command),
                            None => return,
                        }
                    }
                }
            }
        }
        for watch in watches.values_mut() {
            watch.interrupted();
        }
    }
}

/// Carries out a command while there is no stream.
fn note(watches: &mut Watches, command: Command) {
    match command {
        Command::Open(id, watch) => {
            watches.insert(id, watch);
        }
        Command::Start(id) => {
            if let Some(watch) = watches.get_mut(&id) {
                watch.stopped = false;
            }
        }
        Command::Close(id) => {
            watches.remove(&id);
        }
    }
}
