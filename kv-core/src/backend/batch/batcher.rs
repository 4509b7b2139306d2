//! The batcher: the tasks and channels around the queue.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

use super::carrier::{Carrier, Job as _, Verdict};
use super::queue::{Batch, Progress, Queue, Queued};
use super::rules::Rules;
use super::window::Bounds;

/// Sends operations, those that come at the same time together. Clones share one queue.
///
/// ```
/// # use kv_core::backend::batch::{Batcher, Carrier, Duplicates, Job, Rules, Verdict};
/// # use std::time::Duration;
/// struct Set(&'static str);
///
/// impl Job for Set {
///     type Key = &'static str;
///     fn unique_key(&self) -> Option<&'static str> { Some(self.0) }
///     fn bytes(&self) -> usize { self.0.len() }
/// }
///
/// struct Server;
///
/// impl Carrier for Server {
///     type Job = Set;
///     type Answer = Result<(), &'static str>;
///     fn rules(&self) -> Rules {
///         Rules {
///             operations: 64,
///             bytes: 512 << 10,
///             largest: 16 << 10,
///             duplicates: Duplicates::Wait,
///             stalled_after: Duration::from_millis(100),
///         }
///     }
///     fn window(&self, _jobs: usize) -> usize { 3 }
///     fn is_answer(&self, answer: &Self::Answer) -> bool { answer.is_ok() }
///     async fn send_alone(&self, _job: Set) -> Self::Answer { Ok(()) }
///     async fn send_together(&self, jobs: &[Set]) -> Vec<Verdict<Self::Answer>> {
///         jobs.iter().map(|_| Verdict::Answer(Ok(()))).collect()
///     }
///     fn not_sent(&self) -> Self::Answer { Err("not sent") }
///     fn unanswered(&self) -> Self::Answer { Err("perhaps sent") }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let batcher = Batcher::new(Server);
/// assert_eq!(batcher.submit(Set("a")).await, Ok(()));
/// # }
/// ```
pub struct Batcher<C: Carrier> {
    shared: Arc<Shared<C>>,
}

struct Shared<C: Carrier> {
    carrier: C,
    queue: Mutex<Queue<Waiting<C>>>,
    /// The beginning of the queue's time.
    made: Instant,
}

/// Where the answer to an operation goes.
type Reply<C> = oneshot::Sender<Outcome<<C as Carrier>::Answer>>;

enum Outcome<A> {
    Answer(A),
    NotSent,
}

/// An operation that waits to be sent.
struct Waiting<C: Carrier> {
    job: C::Job,
    reply: Unsent<C>,
}

/// Where the answer goes, while the operation is not sent. Dropped meanwhile, it tells the caller so.
struct Unsent<C: Carrier>(Option<Reply<C>>);

impl<C: Carrier> Drop for Unsent<C> {
    fn drop(&mut self) {
        if let Some(reply) = self.0.take() {
            let _ = reply.send(Outcome::NotSent);
        }
    }
}

/// Where an operation goes that was submitted.
enum Entry<C: Carrier> {
    /// It is sent now.
    Send(C::Job, Option<InFlight<C>>),
    /// It waits for its outcome.
    Wait(oneshot::Receiver<Outcome<C::Answer>>),
}

impl<C: Carrier> Batcher<C> {
    /// Starts with an empty queue; no task runs before operations wait.
    pub fn new(carrier: C) -> Self {
        let queue = Mutex::new(Queue::new(carrier.rules()));
        Self { shared: Arc::new(Shared { carrier, queue, made: Instant::now() }) }
    }

    /// The carrier that it was made with.
    pub fn carrier(&self) -> &C {
        &self.shared.carrier
    }

    /// Sends an operation and returns its answer: at once if few requests are in flight, else together with others.
    ///
    /// Dropping the future before the operation is sent withdraws it. Dropping it later leaves its fate unknown; what
    /// others have queued is sent all the same.
    ///
    /// # Panics
    /// Outside a tokio runtime with time enabled, if the operation has to wait.
    pub async fn submit(&self, job: C::Job) -> C::Answer {
        let carrier = self.carrier();
        match self.shared.enter(job) {
            Entry::Send(job, None) => carrier.send_alone(job).await,
            Entry::Send(job, Some(_in_flight)) => {
                let began = Instant::now();
                let answer = carrier.send_alone(job).await;
                self.shared.measure(began, carrier.is_answer(&answer));
                answer
            }
            Entry::Wait(outcome) => match outcome.await {
                Ok(Outcome::Answer(answer)) => answer,
                Ok(Outcome::NotSent) => carrier.not_sent(),
                // A task that carries ends unfinished only with its runtime.
                Err(_) => carrier.unanswered(),
            },
        }
    }
}

impl<C: Carrier> Bounds for C {
    fn few(&self, jobs: usize) -> usize {
        self.window(jobs)
    }

    fn most(&self) -> usize {
        self.most_in_flight()
    }
}

impl<C: Carrier> Clone for Batcher<C> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<C: Carrier> std::fmt::Debug for Batcher<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batcher").finish_non_exhaustive()
    }
}

impl<C: Carrier> Shared<C> {
    fn enter(self: &Arc<Self>, job: C::Job) -> Entry<C> {
        let bytes = job.bytes();
        let mut queue = self.queue();
        if bytes > queue.rules().largest {
            return Entry::Send(job, None);
        }
        if queue.admit(&self.carrier) {
            drop(queue);
            return Entry::Send(job, Some(InFlight::new(self, 1)));
        }
        self.carrier.queued(&job);
        let (reply, outcome) = oneshot::channel();
        let needs_guard = queue.push(Waiting { job, reply: Unsent(Some(reply)) });
        let gathers = queue.gather(&self.carrier);
        let rules = *queue.rules();
        drop(queue);
        if needs_guard {
            tokio::spawn(guard_against_stalls(StallGuard { shared: Arc::downgrade(self), ended: false }, rules));
        }
        if gathers {
            self.gather();
        }
        Entry::Wait(outcome)
    }

    /// Starts the task of a request that gathers what waits.
    fn gather(self: &Arc<Self>) {
        let mut in_flight = InFlight::new(self, 0);
        in_flight.gathering = true;
        // Without a runtime the permit is dropped here, which drops what waits.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(gather(in_flight));
        }
    }

    fn is_answer(&self, verdict: &Verdict<C::Answer>) -> bool {
        matches!(verdict, Verdict::Answer(answer) if self.carrier.is_answer(answer))
    }

    /// Notes how long a request took that began then.
    fn measure(&self, began: Instant, is_answered: bool) {
        if is_answered {
            let now = Instant::now();
            self.queue().answered(now - self.made, now - began);
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue<Waiting<C>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: Carrier> Waiting<C> {
    /// Takes it apart in order to send it; `None` if its caller gave up since it left the queue.
    fn into_parts(mut self) -> Option<(C::Job, Reply<C>)> {
        if self.is_abandoned() {
            return None;
        }
        Some(self.job).zip(self.reply.0.take())
    }
}

impl<C: Carrier> Queued for Waiting<C> {
    type Job = C::Job;

    fn job(&self) -> &C::Job {
        &self.job
    }

    fn is_abandoned(&self) -> bool {
        self.reply.0.as_ref().is_none_or(oneshot::Sender::is_closed)
    }
}

/// The permit for one request in flight.
///
/// Dropping it, also half-way through the request, lets those go next that have queued meanwhile.
struct InFlight<C: Carrier> {
    shared: Arc<Shared<C>>,
    /// How many operations the request carries.
    carried: usize,
    /// It has yet to take the operations that go next.
    gathering: bool,
    /// The permit is given back.
    ended: bool,
}

impl<C: Carrier> InFlight<C> {
    fn new(shared: &Arc<Shared<C>>, carried: usize) -> Self {
        Self { shared: Arc::clone(shared), carried, gathering: false, ended: false }
    }

    /// What goes next on this permit; without anything, it is given back.
    fn next(&mut self) -> Option<Batch<Waiting<C>>> {
        let gathered = std::mem::replace(&mut self.gathering, false);
        let (next, gathers) = {
            let mut queue = self.shared.queue();
            let next = queue.next(self.carried, gathered, &self.shared.carrier);
            // What a batch could not carry leaves at once, too, where there is room for more requests.
            (next, queue.gather(&self.shared.carrier))
        };
        self.carried = next.as_ref().map_or(0, Batch::len);
        self.ended = next.is_none();
        if gathers {
            self.shared.gather();
        }
        next
    }

    /// Lets those submit who are about to: what they have to send then goes together.
    async fn let_others_submit(&mut self) {
        if !self.gathering {
            self.shared.queue().gather_again();
            self.gathering = true;
        }
        for _ in 0..TURNS {
            let before = self.shared.queue().waiting();
            yield_now().await;
            let queue = self.shared.queue();
            if queue.waiting() <= before || !queue.is_patient(&self.shared.carrier) {
                return;
            }
        }
    }
}

impl<C: Carrier> Drop for InFlight<C> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        if let Some(batch) = self.next() {
            let carrying = carry(Self::new(&self.shared, batch.len()), batch);
            // Without a runtime the batch is dropped here, and the permit with it, which drops the next batch.
            if let Ok(runtime) = Handle::try_current() {
                runtime.spawn(carrying);
            }
        }
    }
}

/// How many turns of the runtime a request gathers at most. In one turn, a thread runs some sixty tasks.
const TURNS: usize = 4;

/// Sends what waits when those have submitted who are about to.
async fn gather<C: Carrier>(mut in_flight: InFlight<C>) {
    in_flight.let_others_submit().await;
    if let Some(batch) = in_flight.next() {
        carry(in_flight, batch).await;
    }
}

/// Sends what waits until nothing does.
async fn carry<C: Carrier>(mut in_flight: InFlight<C>, mut batch: Batch<Waiting<C>>) {
    loop {
        send_each_alone(&in_flight.shared, batch.alone.into_iter().filter_map(Waiting::into_parts));
        send_together(&in_flight.shared, batch.together).await;
        // Those who have just been answered may have more to send.
        in_flight.let_others_submit().await;
        match in_flight.next() {
            Some(next) => batch = next,
            None => return,
        }
    }
}

async fn send_together<C: Carrier>(shared: &Arc<Shared<C>>, batch: Vec<Waiting<C>>) {
    let (mut jobs, mut replies): (Vec<_>, Vec<_>) = batch.into_iter().filter_map(Waiting::into_parts).unzip();
    while jobs.len() > 1 {
        let began = Instant::now();
        let mut verdicts = shared.carrier.send_together(&jobs).await;
        shared.measure(began, verdicts.iter().any(|verdict| shared.is_answer(verdict)));
        // An operation without a verdict is one that nothing is known about.
        verdicts.resize_with(jobs.len(), || Verdict::Answer(shared.carrier.unanswered()));
        let sent = jobs.len();
        let (mut again, mut alone, mut answers) = ((Vec::new(), Vec::new()), Vec::new(), Vec::with_capacity(sent));
        for ((job, reply), verdict) in jobs.into_iter().zip(replies).zip(verdicts) {
            match verdict {
                Verdict::Answer(answer) => answers.push((reply, answer)),
                Verdict::Alone => alone.push((job, reply)),
                Verdict::Again => {
                    again.0.push(job);
                    again.1.push(reply);
                }
            }
        }
        // In one go: a worker that is woken for each of them apart takes longer than the answers.
        for (reply, answer) in answers {
            let _ = reply.send(Outcome::Answer(answer));
        }
        send_each_alone(shared, alone);
        (jobs, replies) = again;
        if jobs.len() == sent {
            break;
        }
    }
    // One that is left is sent on the permit; several are those that a batch cannot carry.
    if jobs.len() == 1
        && let Some((job, reply)) = jobs.pop().zip(replies.pop())
    {
        let began = Instant::now();
        let is_answered = send_alone(shared, job, reply).await;
        shared.measure(began, is_answered);
    }
    send_each_alone(shared, jobs.into_iter().zip(replies));
}

/// Sends each operation in a request and a task of its own, and does not wait for them.
fn send_each_alone<C: Carrier>(shared: &Arc<Shared<C>>, operations: impl IntoIterator<Item = (C::Job, Reply<C>)>) {
    for (job, reply) in operations {
        let shared = Arc::clone(shared);
        tokio::spawn(async move { send_alone(&shared, job, reply).await });
    }
}

/// Sends an operation, and returns whether the server answered it.
async fn send_alone<C: Carrier>(shared: &Shared<C>, job: C::Job, mut reply: Reply<C>) -> bool {
    tokio::select! {
        answer = shared.carrier.send_alone(job) => {
            let is_answer = shared.carrier.is_answer(&answer);
            let _ = reply.send(Outcome::Answer(answer));
            is_answer
        }
        // The caller gave up.
        () = reply.closed() => false,
    }
}

/// The duty to see that a queue moves. It ends, at the latest, with the runtime of its task.
struct StallGuard<C: Carrier> {
    shared: Weak<Shared<C>>,
    /// The duty is over, and perhaps another guard's by now.
    ended: bool,
}

impl<C: Carrier> Drop for StallGuard<C> {
    fn drop(&mut self) {
        if !self.ended
            && let Some(shared) = self.shared.upgrade()
        {
            shared.queue().guard_ended();
        }
    }
}

/// For as long as operations wait: lets more through if no request returns.
async fn guard_against_stalls<C: Carrier>(mut guard: StallGuard<C>, rules: Rules) {
    let mut last_look = None;
    loop {
        sleep(rules.stalled_after).await;
        let Some(shared) = guard.shared.upgrade() else { return };
        let progress = {
            let mut queue = shared.queue();
            let progress = queue.progress(&mut last_look);
            if progress == Progress::Idle {
                // Under the same lock, so that the next operation to wait starts a guard.
                queue.guard_ended();
                guard.ended = true;
            }
            progress
        };
        match progress {
            Progress::Idle => return,
            Progress::Moving => {}
            Progress::Stalled => {
                let mut in_flight = InFlight::new(&shared, 0);
                if let Some(batch) = in_flight.next() {
                    tokio::spawn(carry(in_flight, batch));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
