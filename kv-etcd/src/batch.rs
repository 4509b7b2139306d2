//! Operations that travel together: what queues while a request is under way goes with the next one.
//!
//! A transaction with 64 reads costs the server about as much as a dozen reads apart. There is no timer: an operation
//! that meets nobody is sent at once and alone, so it waits for nobody.
//!
//! The requests under way have equal shares of what there is. If each took all that waits, one would come to carry
//! nearly everything and the others next to nothing, and a small one costs the server half as much as a full one.
//!
//! Only operations on one key take part, each on a key of its own, and a condition only on that same key: etcd judges
//! the conditions of a transaction before it applies any of it, so in this way each has the outcome that it would
//! have had alone.

use std::collections::{HashSet, VecDeque};
use std::future::Future;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};

use crate::client::Client;
use crate::error::Failed;
use crate::proto::{RequestOp, Response, TxnRequest};
use crate::range::revision;

/// If no request of a lane has come back for this long, those who queue wait no longer: one that etcd has forwarded to
/// a leader that died meanwhile is answered after seconds, and is not to hold up the others.
const STUCK: Duration = Duration::from_millis(100);
/// How many operations travel together at most. etcd counts what is nested in a transaction on top of the
/// transaction's own operations, 128 in all.
const MOST_OPERATIONS: usize = 127;
/// How many bytes of keys and values travel together at most, and how large one may be to take part.
const MOST_BYTES: usize = 512 << 10;
const LARGEST: usize = 16 << 10;

/// An operation on one key.
pub(crate) trait Job: Clone + Send + Sync + 'static {
    /// What comes of it.
    type Answer: Send + 'static;
    /// Whether it may change the store: then no two of a transaction have the same key.
    const WRITES: bool;
    /// How many requests may be under way before others queue, where there are so many operations in all: more of
    /// them keep the server busy, and fewer are fuller.
    fn under_way(operations: usize) -> usize;

    /// Where others of its kind are.
    fn lane(client: &Client) -> &Lane<Self>;

    /// Its key.
    fn key(&self) -> &Bytes;

    /// Its size, key included, in bytes.
    fn bytes(&self) -> usize;

    /// Sends it by itself.
    fn alone(self, client: &Client) -> impl Future<Output = Result<Self::Answer, Failed>> + Send;

    /// What it is within a transaction.
    fn part(self) -> RequestOp;

    /// What came of it in a transaction that was applied at `revision`; `None` if that is no answer to it.
    fn answer(part: Option<Response>, revision: u64) -> Option<Self::Answer>;
}

/// The operations of one kind that wait for a request to come back.
pub(crate) struct Lane<J: Job>(Mutex<State<J>>);

struct State<J: Job> {
    /// Empty unless as many requests as may be are under way.
    queue: VecDeque<Queued<J>>,
    under_way: usize,
    /// How many operations the requests under way carry.
    carried: usize,
    /// How many requests have gone so far.
    gone: u64,
    /// Somebody sees to it that the queue moves.
    watched: bool,
}

impl<J: Job> State<J> {
    fn operations(&self) -> usize {
        self.queue.len() + self.carried
    }
}

struct Queued<J: Job> {
    job: J,
    answer: oneshot::Sender<Result<J::Answer, Failed>>,
}

impl<J: Job> Default for Lane<J> {
    fn default() -> Self {
        Self(Mutex::new(State { queue: VecDeque::new(), under_way: 0, carried: 0, gone: 0, watched: false }))
    }
}

impl<J: Job> Lane<J> {
    /// Queues the operation, and says where its answer will come; gives it back if it may go at once.
    fn queue(&self, job: J) -> Result<oneshot::Receiver<Result<J::Answer, Failed>>, J> {
        let mut state = self.state();
        if state.under_way < J::under_way(state.operations()) {
            state.under_way += 1;
            state.carried += 1;
            state.gone += 1;
            return Err(job);
        }
        let (answer, answered) = oneshot::channel();
        state.queue.push_back(Queued { job, answer });
        Ok(answered)
    }

    /// What goes next, in place of a request that is not under way any more and carried `returned` operations.
    fn next(&self, returned: usize) -> Option<Vec<Queued<J>>> {
        let mut state = self.state();
        state.carried -= returned;
        let operations = state.operations();
        let share = operations.div_ceil(J::under_way(operations)).min(MOST_OPERATIONS);
        let mut bytes = 0;
        let mut next = Vec::new();
        while next.len() < share
            && bytes < MOST_BYTES
            && let Some(queued) = state.queue.pop_front()
        {
            // Those that nobody waits for any more are not sent.
            if !queued.answer.is_closed() {
                bytes += queued.job.bytes();
                next.push(queued);
            }
        }
        if next.is_empty() {
            state.under_way -= 1;
            return None;
        }
        state.gone += 1;
        state.carried += next.len();
        Some(next)
    }

    /// Whether nobody watches the queue yet; then the caller does.
    fn begin_to_watch(&self) -> bool {
        !std::mem::replace(&mut self.state().watched, true)
    }

    /// Whether none has gone since `before`, though somebody waits; then one more may go. `None` if nobody waits, and
    /// the queue is watched no longer.
    fn is_stuck(&self, before: &mut Option<u64>) -> Option<bool> {
        let mut state = self.state();
        if state.queue.is_empty() {
            state.watched = false;
            return None;
        }
        let stuck = *before == Some(state.gone);
        *before = Some(state.gone);
        state.under_way += usize::from(stuck);
        Some(stuck)
    }

    fn state(&self) -> MutexGuard<'_, State<J>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends an operation: at once if few requests are under way, else together with those that wait.
pub(crate) async fn submit<J: Job>(client: &Arc<Client>, job: J) -> Result<J::Answer, Failed> {
    if job.bytes() > LARGEST {
        return job.alone(client).await;
    }
    let answered = match J::lane(client).queue(job) {
        Ok(answered) => answered,
        Err(job) => {
            let _turn = Turn::<J>::new(client, 1);
            return job.alone(client).await;
        }
    };
    if J::lane(client).begin_to_watch() {
        tokio::spawn(keep_moving::<J>(Watch { client: Arc::downgrade(client), kind: PhantomData }));
    }
    // No answer comes only if the runtime that was to carry the operation has ended.
    answered.await.unwrap_or_else(|_| Err(Failed::given_up(J::WRITES)))
}

/// The right to have a request under way. Whoever gives it up, also by being dropped half-way, lets those go who
/// have queued meanwhile.
struct Turn<J: Job> {
    client: Arc<Client>,
    /// How many operations the request carries.
    carried: usize,
    /// Nobody was left to go, and the right is given back.
    over: bool,
    kind: PhantomData<J>,
}

impl<J: Job> Turn<J> {
    fn new(client: &Arc<Client>, carried: usize) -> Self {
        Self { client: Arc::clone(client), carried, over: false, kind: PhantomData }
    }

    /// Who goes next; if nobody does, the turn is over.
    fn next(&mut self) -> Option<Vec<Queued<J>>> {
        let next = J::lane(&self.client).next(self.carried);
        self.over = next.is_none();
        self.carried = next.as_ref().map_or(0, Vec::len);
        next
    }
}

impl<J: Job> Drop for Turn<J> {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        if let Some(next) = self.next() {
            let carrying = carry(Self::new(&self.client, next.len()), next);
            // Without a runtime they are dropped here, and those after them by the turn that goes with them.
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(carrying);
            }
        }
    }
}

/// The duty to see that a queue moves; given up, at the latest, with the runtime that it was taken up in.
struct Watch<J: Job> {
    client: Weak<Client>,
    kind: PhantomData<J>,
}

impl<J: Job> Drop for Watch<J> {
    fn drop(&mut self) {
        if let Some(client) = self.client.upgrade() {
            J::lane(&client).state().watched = false;
        }
    }
}

/// Lets those go who wait behind requests that do not come back, for as long as anybody waits.
async fn keep_moving<J: Job>(watch: Watch<J>) {
    let mut before = None;
    loop {
        sleep(STUCK).await;
        let Some(client) = watch.client.upgrade() else { return };
        match J::lane(&client).is_stuck(&mut before) {
            None => return,
            Some(false) => {}
            Some(true) => {
                let mut turn = Turn::<J>::new(&client, 0);
                if let Some(next) = turn.next() {
                    tokio::spawn(carry(turn, next));
                }
            }
        }
    }
}

/// Sends what has queued, until nothing is left.
async fn carry<J: Job>(mut turn: Turn<J>, mut next: Vec<Queued<J>>) {
    loop {
        send_together(&turn.client, next).await;
        // Those who have their answers now may have more to ask, and are to go together again.
        yield_now().await;
        match turn.next() {
            Some(more) => next = more,
            None => return,
        }
    }
}

async fn send_together<J: Job>(client: &Arc<Client>, queued: Vec<Queued<J>>) {
    let mut keys = HashSet::new();
    let is_first = |one: &Queued<J>| !J::WRITES || keys.insert(one.job.key().clone());
    let (together, others): (Vec<_>, Vec<_>) = queued.into_iter().partition(is_first);
    send_apart(client, others);
    if together.len() == 1 {
        return send_apart(client, together);
    }
    let request =
        TxnRequest { success: together.iter().map(|one| one.job.clone().part()).collect(), ..TxnRequest::default() };
    let failed = match timeout(client.config.timeout, client.call(request)).await {
        Ok(Ok(answer)) => match revision(answer.header.as_ref()) {
            Ok(revision) => {
                let mut parts = answer.responses.into_iter();
                let answers: Vec<_> = together
                    .into_iter()
                    .map(|one| {
                        let part = parts.next().and_then(|part| part.response);
                        let answer = J::answer(part, revision);
                        (one.answer, answer.ok_or_else(|| Failed::odd("an answer is missing")))
                    })
                    .collect();
                // In one go, for a worker that is woken for each of them apart takes longer than the answers.
                for (waiting, answer) in answers {
                    let _ = waiting.send(answer);
                }
                return;
            }
            Err(failed) => failed,
        },
        // One of them may be what was refused: it is not to take the others with it.
        Ok(Err(failed)) if failed.is_refusal() => return send_apart(client, together),
        Ok(Err(failed)) if failed.is_too_large() && !J::WRITES => return send_apart(client, together),
        Ok(Err(failed)) => failed,
        Err(_elapsed) => Failed::given_up(J::WRITES),
    };
    for one in together {
        let _ = one.answer.send(Err(failed.clone()));
    }
}

/// Sends each by itself, without waiting for them.
fn send_apart<J: Job>(client: &Arc<Client>, queued: Vec<Queued<J>>) {
    for Queued { job, mut answer } in queued {
        let client = Arc::clone(client);
        tokio::spawn(async move {
            tokio::select! {
                result = job.alone(&client) => drop(answer.send(result)),
                // Whoever asked has given up.
                () = answer.closed() => {}
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone)]
    struct Nothing(Bytes);

    impl Job for Nothing {
        type Answer = ();
        const WRITES: bool = false;

        fn under_way(_operations: usize) -> usize {
            3
        }

        fn lane(_client: &Client) -> &Lane<Self> {
            unimplemented!("there is no client")
        }

        fn key(&self) -> &Bytes {
            &self.0
        }

        fn bytes(&self) -> usize {
            0
        }

        async fn alone(self, _client: &Client) -> Result<(), Failed> {
            Ok(())
        }

        fn part(self) -> RequestOp {
            RequestOp { request: None }
        }

        fn answer(_part: Option<Response>, _revision: u64) -> Option<()> {
            Some(())
        }
    }

    #[test]
    fn requests_under_way_have_equal_shares_of_what_there_is() {
        let lane = Lane::default();
        let mut waiting: Vec<_> = (0..12).filter_map(|_| lane.queue(Nothing(Bytes::new())).ok()).collect();
        assert_eq!(waiting.len(), 9);
        let size = |returned| lane.next(returned).map(|next| next.len());
        // Nine wait, and two are under way: a third of eleven goes next.
        assert_eq!([size(1), size(1), size(1)], [Some(4), Some(4), Some(1)]);
        // Four have come back, and all ask again, while five are under way.
        waiting.extend((0..4).filter_map(|_| lane.queue(Nothing(Bytes::new())).ok()));
        assert_eq!(size(4), Some(3));
        assert_eq!([size(4), size(1), size(3), size(1)], [Some(1), None, None, None]);
        let state = lane.state();
        assert_eq!((state.under_way, state.carried), (0, 0));
    }

    #[test]
    fn who_has_given_up_is_not_sent() {
        let lane = Lane::default();
        let waiting: Vec<_> = (0..6).filter_map(|_| lane.queue(Nothing(Bytes::new())).ok()).collect();
        assert_eq!(waiting.len(), 3);
        drop(waiting);
        assert!(lane.next(1).is_none() && lane.next(1).is_none() && lane.next(1).is_none());
    }
}
