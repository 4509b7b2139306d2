//! Counts the answers to a workload's clients, and how long each waited.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kv_core::Error;

use crate::outcome::{Broke, Outcome};

/// The counts of one workload. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Tally {
    pub(crate) workload: &'static str,
    counts: Arc<Mutex<Counts>>,
}

#[derive(Debug, Default)]
struct Counts {
    clients: BTreeMap<usize, Client>,
    ok: usize,
    conflict: usize,
    lost: usize,
    unavailable: usize,
    indeterminate: usize,
    events: usize,
    compacted: usize,
    /// The fault has begun.
    struck: bool,
    /// The run is over; waits no longer count.
    over: bool,
    /// The number of `unavailable`, `indeterminate` and `compacted` results since the fault began.
    trouble: usize,
    /// Of `unavailable`, those since then.
    failures: Vec<Failure>,
    longest_before: Duration,
    longest_since: Duration,
}

/// A call that failed, and certainly did nothing.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
    pub(crate) said: String,
}

#[derive(Debug)]
struct Client {
    answered: Instant,
    /// How often each client was served since the last [`Tally::mark`].
    served: usize,
}

impl Tally {
    /// Creates a tally with this many clients, numbered from 0.
    pub(crate) fn new(workload: &'static str, clients: usize) -> Self {
        let tally = Self { workload, counts: Arc::default() };
        for client in 0..clients {
            tally.enter(client);
        }
        tally
    }

    /// Adds a client; [`behind`](Self::behind) includes it from now on.
    pub(crate) fn enter(&self, client: usize) {
        self.counts().clients.insert(client, Client { answered: Instant::now(), served: 0 });
    }

    /// Removes a client.
    pub(crate) fn leave(&self, client: usize) {
        self.counts().clients.remove(&client);
    }

    /// Makes a call for a client and counts its result.
    pub(crate) async fn call<T>(
        &self,
        client: usize,
        call: impl Future<Output = kv_core::Result<T>>,
    ) -> kv_core::Result<T> {
        let began = Instant::now();
        let result = call.await;
        self.note(client, began, result.as_ref().err());
        result
    }

    /// Counts the result of a call that was made elsewhere, and when it began.
    pub(crate) fn note(&self, client: usize, began: Instant, error: Option<&Error>) {
        let mut counts = self.counts();
        match error {
            Some(error @ Error::Unavailable { .. }) => {
                counts.unavailable += 1;
                counts.failed(began, error);
                counts.trouble += usize::from(counts.struck);
                return;
            }
            Some(Error::Indeterminate { .. }) => {
                counts.indeterminate += 1;
                counts.trouble += usize::from(counts.struck);
                return;
            }
            Some(Error::Conflict { .. }) => counts.conflict += 1,
            Some(Error::Lost { .. }) => counts.lost += 1,
            _ => counts.ok += 1,
        }
        counts.answered(client);
    }

    /// Restarts a client's wait: it did something else and did not wait for an answer.
    pub(crate) fn rest(&self, client: usize) {
        if let Some(client) = self.counts().clients.get_mut(&client) {
            client.answered = Instant::now();
        }
    }

    /// Counts an event that a client received.
    pub(crate) fn event(&self, client: usize) {
        let mut counts = self.counts();
        counts.events += 1;
        counts.answered(client);
    }

    /// Counts a watch that ended because history was compacted.
    pub(crate) fn compacted(&self) {
        let mut counts = self.counts();
        counts.compacted += 1;
        counts.trouble += usize::from(counts.struck);
    }

    /// The calls that failed since the fault began, and certainly did nothing.
    pub(crate) fn failures(&self) -> Vec<Failure> {
        self.counts().failures.clone()
    }

    /// Notes that the fault begins.
    pub(crate) fn strike(&self) {
        self.counts().struck = true;
    }

    /// Notes that the run is over. Missing answers no longer count.
    pub(crate) fn end(&self) {
        self.counts().over = true;
    }

    /// Whether the fault caused errors, or a wait that is much longer than any before it.
    pub(crate) fn bitten(&self) -> bool {
        let counts = self.counts();
        counts.trouble > 0 || counts.longest_since > counts.longest_before * 3
    }

    /// Resets the counts of how often each client was served.
    pub(crate) fn mark(&self) {
        self.counts().clients.values_mut().for_each(|client| client.served = 0);
    }

    /// The clients that were served less than `times` times since [`mark`](Self::mark).
    pub(crate) fn behind(&self, times: usize) -> Vec<usize> {
        let counts = self.counts();
        counts.clients.iter().filter(|(_, client)| client.served < times).map(|(number, _)| *number).collect()
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn failed(&mut self, began: Instant, error: &Error) {
        if self.struck {
            self.failures.push(Failure { began, ended: Instant::now(), said: error.to_string() });
        }
    }

    fn answered(&mut self, client: usize) {
        let Some(client) = self.clients.get_mut(&client) else { return };
        let waited = client.answered.elapsed();
        client.answered = Instant::now();
        client.served += 1;
        if self.over {
            return;
        }
        let longest = if self.struck { &mut self.longest_since } else { &mut self.longest_before };
        *longest = waited.max(*longest);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.counts();
        let Counts { ok, conflict, lost, unavailable, indeterminate, events, compacted, .. } = &*counts;
        let operations = ok + conflict + lost + unavailable + indeterminate;
        write!(f, "{:<9} {operations:>6} operations: {ok} ok", self.workload)?;
        for (number, what) in [
            (conflict, "conflict"),
            (lost, "lost"),
            (unavailable, "unavailable"),
            (indeterminate, "indeterminate"),
            (events, "events"),
            (compacted, "compacted"),
        ] {
            if *number > 0 {
                write!(f, ", {number} {what}")?;
            }
        }
        let (before, since) = (counts.longest_before.as_secs_f64(), counts.longest_since.as_secs_f64());
        write!(f, "; longest without an answer {before:.2} s before the fault, {since:.2} s since")
    }
}

/// Accepts an error that a store under fault may return. Any other error breaks [A5](kv_core::contract::CLAUSES#A5).
pub(crate) fn tolerate(error: Error) -> Outcome {
    match error {
        Error::Unavailable { .. } | Error::Indeterminate { .. } | Error::Conflict { .. } | Error::Lost { .. } => Ok(()),
        error => Err(Broke::new("A5", format!("a fault does not explain this answer: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_count_from_when_the_fault_began_and_indeterminate_writes_are_none() {
        let tally = Tally::new("busy", 1);
        let note = |error: Error| tally.note(0, Instant::now(), Some(&error));
        note(Error::unavailable("before"));
        assert!(tally.failures().is_empty());
        tally.strike();
        note(Error::indeterminate("in flight"));
        for number in 0..5 {
            note(Error::unavailable(format!("refused {number}")));
        }
        let failures = tally.failures();
        assert_eq!(failures.len(), 5);
        assert!(failures[0].said.contains("refused 0"), "{failures:?}");
    }
}
