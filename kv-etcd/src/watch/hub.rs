//! The task that carries every watch of a backend on one stream, and brings them back after a failure (clause E4).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kv_core::{Error, Result};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use super::batch::{Batch, Joiner};
use super::session::{self, End};
use super::{Events, Sink};
use crate::backoff::Backoff;
use crate::client::Client;
use crate::range::{Range, index, signed};

/// After a failure the stream is opened again after pauses that grow between these.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What the consumers' side asks of the hub.
pub(super) enum Command {
    /// A new watch.
    Open(u64, Watch),
    /// The consumer of a stopped watch has caught up.
    Start(u64),
    /// The consumer is gone.
    Close(u64),
}

/// One watch, as the hub keeps it.
pub(super) struct Watch {
    pub(super) range: Range,
    /// The first revision that has not been delivered.
    pub(super) next: i64,
    pub(super) joiner: Joiner,
    sink: Sink,
    /// Who waits for the server to confirm the watch; taken once it has.
    opened: Option<oneshot::Sender<Result<()>>>,
    /// Its consumer is behind, so the server is not to send.
    pub(super) stopped: bool,
    /// The server has refused it once, perhaps only for a token that had lapsed.
    pub(super) refused: bool,
}

impl Watch {
    /// The server watches.
    pub(super) fn confirmed(&mut self) {
        self.refused = false;
        if let Some(opened) = self.opened.take() {
            let _ = opened.send(Ok(()));
        }
    }

    /// Hands events on. If the consumer is behind they are not, and the watch has to be stopped.
    pub(super) fn deliver(&mut self, batch: Batch) {
        if self.sink.gauge.is_full() {
            self.stopped = true;
            return;
        }
        self.next = batch.last.saturating_add(1);
        self.sink.gauge.add(batch.bytes);
        // A consumer that is gone says so itself.
        let _ = self.sink.batches.send(Ok(batch));
    }

    /// Leaves a stopped watch to its consumer, unless the consumer has caught up just now.
    pub(super) fn stay_stopped(&mut self) {
        self.joiner.clear();
        self.sink.gauge.stop();
        self.stopped = !self.sink.gauge.start_again();
    }

    /// Ends it for good.
    pub(super) fn fail(mut self, error: Error) {
        if let Some(opened) = self.opened.take() {
            let _ = opened.send(Err(error));
        } else {
            let _ = self.sink.batches.send(Err(error));
        }
    }

    /// The server no longer has all that this watch has not seen.
    pub(super) fn compacted(self, revision: i64) {
        let after = index(self.next - 1);
        // One may still watch from the compacted revision itself, but older servers leave out deletions there.
        self.fail(Error::Compacted { after, oldest: Some(index(revision)) });
    }
}

/// Every watch of the backend.
pub(super) type Watches = HashMap<u64, Watch>;

/// Opens watches; dropping it ends them all.
pub(crate) struct Hub {
    commands: UnboundedSender<Command>,
    next_id: AtomicU64,
    task: AbortHandle,
}

impl Hub {
    pub(crate) fn start(client: Arc<Client>) -> Self {
        let (commands, receiver) = unbounded_channel();
        let task = tokio::spawn(run(client, receiver)).abort_handle();
        Self { commands, next_id: AtomicU64::new(1), task }
    }

    /// Whether its task is still there: it goes with the runtime that it was started on.
    pub(crate) fn is_running(&self) -> bool {
        !self.commands.is_closed()
    }

    /// Opens a watch for everything after `after`; returns once the server has confirmed it.
    pub(crate) async fn open(&self, range: Range, after: u64) -> Result<Events> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (events, sink) = Events::new(id, self.commands.clone());
        let (opened, confirmed) = oneshot::channel();
        let watch = Watch {
            range,
            next: signed(after.saturating_add(1)),
            joiner: Joiner::default(),
            sink,
            opened: Some(opened),
            stopped: false,
            refused: false,
        };
        let gone = || Error::unavailable("the task that keeps the watches has ended");
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
    let mut backoff = Backoff::new("watch", FIRST_PAUSE, LONGEST_PAUSE);
    loop {
        // Watches that are stopped need no stream.
        while watches.values().all(|watch| watch.stopped) {
            let Some(command) = commands.recv().await else { return };
            note(&mut watches, command);
        }
        match session::run(&client, &mut watches, &mut commands, &mut backoff).await {
            End::Idle => {}
            End::Gone => return,
            End::Denied(reason) => {
                for (_, watch) in watches.drain() {
                    watch.fail(Error::permission_denied(reason.clone()));
                }
            }
            End::Failed(reason) => {
                let resume = Instant::now() + backoff.failed(&reason);
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
            watch.joiner.clear();
        }
    }
}

/// Does what a command says while there is no stream.
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
