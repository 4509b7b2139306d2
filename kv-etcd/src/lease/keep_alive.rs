//! Renewals of leases. All renewals of one runtime share a stream, which the first one opens.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _, poll_fn};
use kv_core::backend::backoff::Backoff;
use kv_core::backend::call::Call;
use kv_core::backend::fate::Idempotence;
use kv_core::backend::runtime::PerRuntime;
use kv_core::observability::attempt_failed;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until};

use crate::api::messages::{LEASE_KEEP_ALIVE, LeaseKeepAliveRequest, LeaseKeepAliveResponse};
use crate::config::NAME;
use crate::error::Failed;
use crate::transport::client::Client;

/// The pauses between the attempts of one renewal.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How many new tokens one renewal asks for.
const LOGINS: usize = 2;
/// After this long without an answer to any renewal, the stream is opened again, and pending renewals are sent again.
const OVERDUE: Duration = Duration::from_secs(5);
/// How many refused leases are remembered.
const REFUSED: usize = 1000;

/// Renews leases, on one stream for each runtime.
pub(crate) struct KeepAlive {
    client: Arc<Client>,
    /// The queue of each runtime's task, which sends the renewals. The task ends when its queue is dropped.
    queues: PerRuntime<UnboundedSender<Renewal>>,
    /// The leases that are renewed on streams of their own. If the user may not write every key on a lease, etcd
    /// refuses the renewal and ends the whole stream, which would fail the renewals of others.
    apart: Mutex<HashSet<i64>>,
}

/// The request to renew one lease.
struct Renewal {
    id: i64,
    /// Receives whether the lease exists.
    answer: oneshot::Sender<Result<bool, Failed>>,
}

impl KeepAlive {
    pub(crate) fn new(client: &Arc<Client>) -> Self {
        Self { client: Arc::clone(client), queues: PerRuntime::new(), apart: Mutex::default() }
    }

    /// Restarts the time to live of a lease; `false` if the lease does not exist.
    ///
    /// Renewing twice is harmless, so a failed renewal is repeated for as long as the caller waits.
    pub(crate) async fn renew(&self, id: i64) -> Result<bool, Failed> {
        let mut pauses = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let mut logins_left = LOGINS;
        let caller = Call::current();
        // A write that renews first has not been sent yet.
        caller.not_sent();
        loop {
            let apart = self.apart().contains(&id);
            let result = if apart { self.renew_apart(id).await } else { self.renew_together(id).await };
            let failed = match result {
                Ok(lives) => {
                    if apart {
                        self.apart().remove(&id);
                    }
                    return Ok(lives);
                }
                Err(failed) => failed,
            };
            let pause = pauses.next();
            if failed.is_stale_token() && logins_left > 0 {
                logins_left -= 1;
                self.client.forget_token().await;
            } else if failed.is_refusal() && !apart {
                // The refusal may concern another lease on the stream. Each lease gets its answer on a stream of its
                // own.
                self.put_apart(id);
            } else if failed.is_worth_another_attempt() {
                caller.attempt_failed(&failed.clone().into());
                sleep(pause).await;
            } else {
                return Err(failed);
            }
            attempt_failed(NAME, None, pauses.attempts(), &failed.into());
        }
    }

    async fn renew_together(&self, id: i64) -> Result<bool, Failed> {
        let (answer, answered) = oneshot::channel();
        // If the task has ended, it drops `answer`, and the next line returns an error.
        let _ = self.queues.get(|| self.start()).send(Renewal { id, answer });
        answered.await.unwrap_or_else(|_| Err(not_answered("the task that renews leases has ended")))
    }

    /// Renews a lease on a stream of its own.
    async fn renew_apart(&self, id: i64) -> Result<bool, Failed> {
        let requests = stream::iter([LeaseKeepAliveRequest { id }]).chain(stream::pending());
        let (connection, mut answers) =
            self.client.stream::<_, LeaseKeepAliveResponse>(LEASE_KEEP_ALIVE, requests).await?;
        match answers.due().await {
            Ok(Some(answer)) => Ok(answer.ttl > 0),
            Ok(None) => Err(not_answered("the server ended the stream of renewals")),
            Err(status) => {
                let failed = Failed::stream(&connection.address, status);
                if failed.is_of_the_endpoint() {
                    self.client.abandon(&connection);
                }
                Err(failed)
            }
        }
    }

    fn put_apart(&self, id: i64) {
        let mut apart = self.apart();
        // Leases that are no longer renewed stay in the set, so it is cleared when it is full.
        if apart.len() >= REFUSED {
            apart.clear();
        }
        apart.insert(id);
    }

    fn apart(&self) -> MutexGuard<'_, HashSet<i64>> {
        self.apart.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self) -> UnboundedSender<Renewal> {
        let (sender, receiver) = unbounded_channel();
        tokio::spawn(run(Arc::clone(&self.client), receiver));
        sender
    }
}

/// Sends renewals until the queue is dropped.
async fn run(client: Arc<Client>, mut renewals: UnboundedReceiver<Renewal>) {
    while let Some(first) = renewals.recv().await {
        let mut waiting = Waiting::default();
        if let Err(failed) = keep_stream(&client, first, &mut renewals, &mut waiting).await {
            waiting.fail(&failed);
        }
    }
}

/// The renewals in flight, by lease. etcd answers the renewals of one lease in order.
#[derive(Default)]
struct Waiting {
    by_lease: HashMap<i64, VecDeque<oneshot::Sender<Result<bool, Failed>>>>,
    /// When the last answer came, or else when the first of these renewals began.
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
        // The server is alive, so those that still wait get the full time again.
        self.since = if self.by_lease.is_empty() { None } else { Some(Instant::now()) };
    }

    fn fail(self, failed: &Failed) {
        for waiter in self.by_lease.into_values().flatten() {
            let _ = waiter.send(Err(failed.clone()));
        }
    }
}

/// One life of the stream. It ends without an error only when the queue is dropped.
async fn keep_stream(
    client: &Client,
    first: Renewal,
    renewals: &mut UnboundedReceiver<Renewal>,
    waiting: &mut Waiting,
) -> Result<(), Failed> {
    let (requests, mut receiver) = unbounded_channel();
    // etcd answers the opening together with the first renewal, so the first renewal is sent before.
    let _ = requests.send(waiting.add(first));
    let opening = client.stream(LEASE_KEEP_ALIVE, poll_fn(move |cx| receiver.poll_recv(cx)));
    let (connection, mut answers) = opening.await?;
    loop {
        let overdue = waiting.since.map(|since| since + OVERDUE);
        let next = async { if waiting.since.is_some() { answers.due().await } else { answers.message().await } };
        let failed = tokio::select! {
            renewal = renewals.recv() => match renewal {
                Some(renewal) => {
                    let _ = requests.send(waiting.add(renewal));
                    continue;
                }
                None => return Ok(()),
            },
            answer = next => match answer {
                Ok(Some(answer)) => {
                    waiting.answer(&answer);
                    continue;
                }
                Ok(None) => not_answered("the server ended the stream of renewals"),
                Err(status) => Failed::stream(&connection.address, status),
            },
            () = sleep_until(overdue.unwrap_or_else(Instant::now)), if overdue.is_some() => {
                not_answered("no renewal was answered in time")
            }
        };
        if failed.is_of_the_endpoint() {
            client.abandon(&connection);
        }
        return Err(failed);
    }
}

/// The error of a renewal without an answer, which may be repeated.
fn not_answered(why: &str) -> Failed {
    Failed::unanswered(why, Idempotence::Repeatable)
}
