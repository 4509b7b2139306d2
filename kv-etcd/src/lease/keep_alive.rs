//! Renewals of leases: all that one runtime asks for go on one stream, which is opened when the first is due.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use futures_util::stream::poll_fn;
use kv_core::backend::fate::Idempotence;
use kv_core::backend::runtime::PerRuntime;
use kv_core::observability::attempt_failed;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::Status;

use crate::api::messages::{LEASE_KEEP_ALIVE, LeaseKeepAliveRequest, LeaseKeepAliveResponse};
use crate::config::NAME;
use crate::error::Failed;
use crate::transport::client::Client;

/// Renews leases; each runtime has a stream of its own.
pub(crate) struct KeepAlive {
    client: Arc<Client>,
    /// Where renewals queue for the task that sends them. The task ends when its queue is dropped.
    queues: PerRuntime<UnboundedSender<Renewal>>,
}

/// One lease that somebody wants renewed.
struct Renewal {
    id: i64,
    /// Whether there is such a lease.
    answer: oneshot::Sender<Result<bool, Failed>>,
}

impl KeepAlive {
    pub(crate) fn new(client: &Arc<Client>) -> Self {
        Self { client: Arc::clone(client), queues: PerRuntime::new() }
    }

    /// Starts a lease's time to live anew; false if there is no such lease.
    ///
    /// Doing it twice is harmless, so it is tried on one endpoint after the other.
    pub(crate) async fn renew(&self, id: i64) -> Result<bool, Failed> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let (answer, answered) = oneshot::channel();
            // A task that has ended shows by the answer that does not come.
            let _ = self.queues.get(|| self.start()).send(Renewal { id, answer });
            let result = answered.await.unwrap_or_else(|_| Err(not_answered("the task that renews leases has ended")));
            match result {
                Err(failed)
                    if attempt <= self.client.config.endpoints.len()
                        && (failed.is_stale_token() || failed.moves_on()) =>
                {
                    if failed.is_stale_token() {
                        self.client.forget_token().await;
                    }
                    attempt_failed(NAME, None, attempt, &failed.into());
                }
                result => return result,
            }
        }
    }

    fn start(&self) -> UnboundedSender<Renewal> {
        let (sender, receiver) = unbounded_channel();
        tokio::spawn(run(Arc::clone(&self.client), receiver));
        sender
    }
}

/// Sends renewals until nobody can ask for them any more.
async fn run(client: Arc<Client>, mut renewals: UnboundedReceiver<Renewal>) {
    while let Some(first) = renewals.recv().await {
        let mut waiting = Waiting::default();
        if let Err(failed) = stream(&client, first, &mut renewals, &mut waiting).await {
            waiting.fail(&failed);
        }
    }
}

/// Those whose renewal is in flight, by lease; etcd answers the renewals of one lease in their order.
#[derive(Default)]
struct Waiting {
    by_lease: HashMap<i64, VecDeque<oneshot::Sender<Result<bool, Failed>>>>,
    /// When the one who has waited longest began to.
    since: Option<Instant>,
}

impl Waiting {
    fn add(&mut self, renewal: Renewal) -> LeaseKeepAliveRequest {
        self.since.get_or_insert_with(Instant::now);
        self.by_lease.entry(renewal.id).or_default().push_back(renewal.answer);
        LeaseKeepAliveRequest { id: renewal.id }
    }

    fn answer(&mut self, answer: &LeaseKeepAliveResponse) {
        if let Some(waiters) = self.by_lease.get_mut(&answer.id) {
            if let Some(waiter) = waiters.pop_front() {
                let _ = waiter.send(Ok(answer.ttl > 0));
            }
            if waiters.is_empty() {
                self.by_lease.remove(&answer.id);
            }
        }
        // The server answers; whoever still waits has not waited in vain so far.
        self.since = if self.by_lease.is_empty() { None } else { Some(Instant::now()) };
    }

    fn fail(self, failed: &Failed) {
        for waiter in self.by_lease.into_values().flatten() {
            let _ = waiter.send(Err(failed.clone()));
        }
    }
}

/// One life of the stream; ends without an error only when nobody can ask for renewals any more.
async fn stream(
    client: &Client,
    first: Renewal,
    renewals: &mut UnboundedReceiver<Renewal>,
    waiting: &mut Waiting,
) -> Result<(), Failed> {
    let patience = client.config.timeout / 2;
    let (requests, mut receiver) = unbounded_channel();
    // etcd answers the opening together with the first renewal, so that has to be on its way already.
    let _ = requests.send(waiting.add(first));
    let opening = client.stream(LEASE_KEEP_ALIVE, poll_fn(move |cx| receiver.poll_recv(cx)));
    let (connection, mut answers) =
        timeout(patience, opening).await.map_err(|_elapsed| not_answered("no renewal was answered in time"))??;
    loop {
        let overdue = waiting.since.map(|since| since + patience);
        let failed = tokio::select! {
            renewal = renewals.recv() => match renewal {
                Some(renewal) => {
                    let _ = requests.send(waiting.add(renewal));
                    continue;
                }
                None => return Ok(()),
            },
            answer = answers.message() => match answer {
                Ok(Some(answer)) => {
                    waiting.answer(&answer);
                    continue;
                }
                Ok(None) => not_answered("the server ended the stream of renewals"),
                Err(status) => Failed::Status { status, idempotence: Idempotence::Repeatable },
            },
            () = sleep_until(overdue.unwrap_or_else(Instant::now)), if overdue.is_some() => {
                not_answered("no renewal was answered in time")
            }
        };
        client.abandon(&connection);
        return Err(failed);
    }
}

/// A renewal of which nothing came back; it may be made again.
fn not_answered(why: &str) -> Failed {
    Failed::Status { status: Status::unavailable(why), idempotence: Idempotence::Repeatable }
}
