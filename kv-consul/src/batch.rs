//! Writes that come together travel together: what queues while a transaction is in flight goes with the next one.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use kv_core::{Check, Error, Operation as Write, Result, Txn};
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::backend::{OPERATION, Store, TXN_OPS};
use crate::txn::{Outcome, Refused, explain};

/// How many transactions of queued writes are in flight at a time.
const LANES: usize = 2;

/// If no transaction has come back for this long, those who queue wait no longer: one that an agent has forwarded to a
/// leader that died meanwhile is answered after seconds, and is not to hold up the others.
const STUCK: Duration = Duration::from_millis(100);

/// The writes that wait for a transaction.
#[derive(Default)]
pub(crate) struct Batches {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// The transactions in flight.
    busy: usize,
    queue: VecDeque<Job>,
    /// How many transactions have gone so far.
    gone: u64,
    /// Somebody sees to it that the queue moves.
    watched: bool,
}

/// A write that waits.
struct Job {
    txn: Txn,
    done: oneshot::Sender<Result<Option<u64>>>,
}

impl Job {
    fn keys(&self) -> impl Iterator<Item = &str> {
        let checked = self.txn.checks.iter().map(|check| match check {
            Check::Index { key, .. } => key.as_str(),
            Check::Held(guard) => guard.key.as_str(),
        });
        let written = self.txn.operations.iter().map(|write| match write {
            Write::Set { key, .. } | Write::Delete { key } | Write::DeletePrefix { prefix: key } => key.as_str(),
        });
        checked.chain(written)
    }

    /// At least the bytes that it takes in the transaction's JSON.
    fn size(&self) -> usize {
        let value = |write: &Write| if let Write::Set { data, .. } = write { data.len() / 3 * 4 + 4 } else { 0 };
        let values: usize = self.txn.operations.iter().map(value).sum();
        self.keys().map(|key| 6 * key.len() + OPERATION).sum::<usize>() + values
    }
}

/// One of the transactions in flight.
struct Lane {
    store: Arc<Store>,
    stage: Stage,
}

/// Who uses a lane.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// A caller, for its own write; what queued meanwhile is sent afterwards.
    Caller,
    /// A task, for what queued.
    Task,
    /// Nobody any more.
    Free,
}

impl Drop for Lane {
    fn drop(&mut self) {
        if self.stage == Stage::Free {
            return;
        }
        let mut inner = self.store.batches.inner();
        if self.stage == Stage::Caller
            && !inner.queue.is_empty()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            drop(inner);
            // Without the lock: a runtime that is shutting down drops the task, and with it the lane, at once.
            runtime.spawn(drain(Lane { store: self.store.clone(), stage: Stage::Task }));
            return;
        }
        inner.busy -= 1;
        if inner.busy == 0 {
            // A task ends before its time with its runtime; nobody is left to send what waits.
            inner.queue.clear();
        }
    }
}

impl Batches {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next writes that may share a transaction: no key twice, so that each write of a key has an index of its own.
    ///
    /// None when nothing waits; then the lane is free.
    fn next(&self, body_limit: usize) -> Option<Vec<Job>> {
        let mut inner = self.inner();
        let (mut jobs, mut operations, mut size) = (Vec::new(), 0, 0);
        let mut keys: HashSet<String> = HashSet::new();
        let mut left = VecDeque::new();
        while let Some(job) = inner.queue.pop_front() {
            if job.done.is_closed() {
                continue;
            }
            let (more, bytes) = (job.txn.len(), job.size());
            let fits = jobs.is_empty() || (operations + more <= TXN_OPS && size + bytes <= body_limit);
            let alone = !job.keys().any(|key| keys.contains(key));
            // Of what stays behind the keys are taken too: writes of one key keep their order.
            keys.extend(job.keys().map(str::to_owned));
            if fits && alone {
                (operations, size) = (operations + more, size + bytes);
                jobs.push(job);
            } else {
                left.push_back(job);
            }
            if operations >= TXN_OPS {
                break;
            }
        }
        left.append(&mut inner.queue);
        inner.queue = left;
        if jobs.is_empty() {
            inner.busy -= 1;
            return None;
        }
        inner.gone += 1;
        Some(jobs)
    }

    /// Whether none has gone since `before`, though somebody waits; then one more may go. `None` if nobody waits, and
    /// the queue is watched no longer.
    fn is_stuck(&self, before: &mut Option<u64>) -> Option<bool> {
        let mut inner = self.inner();
        if inner.queue.is_empty() {
            inner.watched = false;
            return None;
        }
        let stuck = *before == Some(inner.gone);
        *before = Some(inner.gone);
        inner.busy += usize::from(stuck);
        Some(stuck)
    }
}

impl Store {
    /// Applies a transaction, together with others if they come faster than they can be sent one by one.
    ///
    /// A lone caller waits for nobody. Of those that share a transaction, one whose check fails or that is refused
    /// keeps none of the others from being applied: they are sent once more without it.
    pub(crate) async fn write(self: &Arc<Self>, txn: Txn) -> Result<Option<u64>> {
        if !is_small(&txn) {
            return self.commit(&txn).await;
        }
        let (done, result) = oneshot::channel();
        let (txn, watch) = {
            let mut inner = self.batches.inner();
            if inner.busy < LANES {
                inner.busy += 1;
                inner.gone += 1;
                (Some(txn), false)
            } else {
                inner.queue.push_back(Job { txn, done });
                (None, !std::mem::replace(&mut inner.watched, true))
            }
        };
        if watch {
            tokio::spawn(keep_moving(Watch(Arc::downgrade(self))));
        }
        if let Some(txn) = txn {
            let _lane = Lane { store: self.clone(), stage: Stage::Caller };
            return self.commit(&txn).await;
        }
        // The task that sends it goes on whoever else gives up; it ends unfinished only with its runtime.
        result.await.unwrap_or_else(|_| Err(Error::indeterminate("the runtime that was to send it has ended")))
    }
}

/// Whether a transaction is a write of one key, which is what comes in numbers.
fn is_small(txn: &Txn) -> bool {
    matches!(&*txn.operations, [Write::Set { .. } | Write::Delete { .. }])
        && matches!(&*txn.checks, [] | [Check::Index { .. }])
}

/// The duty to see that the queue moves; given up, at the latest, with the runtime that it was taken up in.
struct Watch(Weak<Store>);

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(store) = self.0.upgrade() {
            store.batches.inner().watched = false;
        }
    }
}

/// Lets those go who wait behind transactions that do not come back, for as long as anybody waits.
async fn keep_moving(watch: Watch) {
    let mut before = None;
    loop {
        sleep(STUCK).await;
        let Some(store) = watch.0.upgrade() else { return };
        match store.batches.is_stuck(&mut before) {
            None => return,
            Some(false) => {}
            Some(true) => drop(tokio::spawn(drain(Lane { store, stage: Stage::Task }))),
        }
    }
}

/// Sends what waits until nothing does.
async fn drain(mut lane: Lane) {
    while let Some(jobs) = lane.store.batches.next(lane.store.body_limit) {
        send(&lane.store, jobs).await;
    }
    lane.stage = Stage::Free;
}

/// Sends writes as one transaction, as often as it takes to have all of them applied or refused.
async fn send(store: &Store, mut jobs: Vec<Job>) {
    while jobs.len() > 1 {
        let txns = jobs.iter().map(|job| &job.txn);
        let operations: Vec<_> = txns.flat_map(|txn| store.operations(txn)).collect();
        match store.transact(&operations).await {
            Ok(Outcome::Applied(index)) => {
                for job in jobs {
                    let sets = matches!(&*job.txn.operations, [Write::Set { .. }]);
                    let _ = job.done.send(Ok(index.filter(|_| sets)));
                }
                return;
            }
            Ok(Outcome::Refused(refused)) => {
                let before = jobs.len();
                jobs = without(jobs, refused);
                // What was refused was none of them, and would be again.
                if jobs.len() == before {
                    break;
                }
            }
            // Each of them alone may be small enough, or allowed.
            Err(Error::TxnTooLarge { .. } | Error::PermissionDenied { .. }) => break,
            Err(error) => {
                for job in jobs {
                    let _ = job.done.send(Err(same(&error)));
                }
                return;
            }
        }
    }
    for job in jobs {
        let result = store.commit(&job.txn).await;
        let _ = job.done.send(result);
    }
}

/// Tells the writes that were refused, and gives back the others.
fn without(jobs: Vec<Job>, mut refused: Vec<Refused>) -> Vec<Job> {
    let mut left = Vec::new();
    let mut start = 0;
    for job in jobs {
        let end = start + job.txn.len();
        let mut own: Vec<Refused> = refused.extract_if(.., |one| (start..end).contains(&one.at)).collect();
        for one in &mut own {
            one.at -= start;
        }
        start = end;
        if own.is_empty() {
            left.push(job);
        } else {
            let _ = job.done.send(Err(explain(&job.txn, &own)));
        }
    }
    left
}

/// The same error for one more caller.
fn same(error: &Error) -> Error {
    let told = error.to_string();
    match error {
        Error::Unavailable { context, .. } => Error::unavailable(&context.reason),
        Error::Indeterminate { context, .. } => Error::indeterminate(&context.reason),
        Error::PermissionDenied { context, .. } => Error::permission_denied(&context.reason),
        Error::UnexpectedAnswer { context, .. } => Error::unexpected_answer(&context.reason),
        _ => Error::unexpected_answer(told),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::error::Refusal;

    fn set(key: &str, index: Option<u64>) -> Txn {
        let checks = index.map(|index| Check::Index { key: key.to_owned(), index }).into_iter().collect();
        Txn { checks, operations: vec![Write::Set { key: key.to_owned(), data: Bytes::from_static(b"data") }] }
    }

    fn queue(batches: &Batches, txns: Vec<Txn>) -> Vec<oneshot::Receiver<Result<Option<u64>>>> {
        let mut inner = batches.inner();
        inner.busy = 1;
        let queue = |txn| {
            let (done, result) = oneshot::channel();
            inner.queue.push_back(Job { txn, done });
            result
        };
        txns.into_iter().map(queue).collect()
    }

    fn keys(jobs: &[Job]) -> Vec<String> {
        jobs.iter().filter_map(|job| job.keys().next().map(str::to_owned)).collect()
    }

    fn next(batches: &Batches, body_limit: usize) -> Vec<String> {
        keys(&batches.next(body_limit).unwrap_or_default())
    }

    #[test]
    fn no_key_travels_twice_and_each_keeps_its_order() {
        let batches = Batches::default();
        let waiting = queue(&batches, ["a", "b", "a", "c", "a"].map(|key| set(key, None)).to_vec());
        assert_eq!(next(&batches, 1 << 20), ["a", "b", "c"]);
        assert_eq!(next(&batches, 1 << 20), ["a"]);
        assert_eq!(next(&batches, 1 << 20), ["a"]);
        assert!(batches.next(1 << 20).is_none());
        assert_eq!(batches.inner().busy, 0);
        drop(waiting);
    }

    #[test]
    fn who_gave_up_is_left_out() {
        let batches = Batches::default();
        let mut waiting = queue(&batches, ["a", "b"].map(|key| set(key, None)).to_vec());
        drop(waiting.remove(0));
        assert_eq!(next(&batches, 1 << 20), ["b"]);
    }

    #[test]
    fn operations_and_bytes_are_limited() {
        let batches = Batches::default();
        let txns: Vec<Txn> = (0..100).map(|number| set(&format!("{number}"), Some(1))).collect();
        let _waiting = queue(&batches, txns);
        assert_eq!(next(&batches, 1 << 20).len(), TXN_OPS / 2);
        assert_eq!(next(&batches, 10).len(), 1);
    }

    #[test]
    fn one_that_is_refused_leaves_the_others() {
        let batches = Batches::default();
        let mut waiting = queue(&batches, vec![set("a", None), set("b", Some(7)), set("c", None)]);
        let jobs = batches.next(1 << 20).expect("jobs");
        let refused = Refused { at: 1, why: Refusal::Check, what: "failed index check".to_owned() };
        assert_eq!(keys(&without(jobs, vec![refused])), ["a", "c"]);
        let told = waiting[1].try_recv().expect("an answer");
        assert!(matches!(told, Err(Error::Conflict { key }) if key == "b"));
    }

    #[test]
    fn only_writes_of_one_key_wait_for_others() {
        assert!(is_small(&set("a", None)) && is_small(&set("a", Some(1))));
        let two = Txn {
            checks: Vec::new(),
            operations: [set("a", None), set("b", None)].map(|mut txn| txn.operations.remove(0)).to_vec(),
        };
        let tree = Txn { checks: Vec::new(), operations: vec![Write::DeletePrefix { prefix: "a/".to_owned() }] };
        assert!(!is_small(&two) && !is_small(&tree) && !is_small(&Txn::default()));
    }
}
