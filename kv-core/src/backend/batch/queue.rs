//! The queue of a batcher: who may be sent, and which operations go together. Pure: no clock, no task, no lock.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use super::carrier::Job;
use super::rules::{Duplicates, Rules};
use super::window::{Bounds, Room, Window};

/// An operation in the queue.
pub(super) trait Queued {
    type Job: Job;

    fn job(&self) -> &Self::Job;

    /// Whether its caller gave up.
    fn is_abandoned(&self) -> bool;
}

/// Operations that are sent next.
pub(super) struct Batch<T> {
    /// These go in one request.
    pub(super) together: Vec<T>,
    /// Each of these goes in a request of its own.
    pub(super) alone: Vec<T>,
}

impl<T> Batch<T> {
    pub(super) fn len(&self) -> usize {
        self.together.len() + self.alone.len()
    }
}

/// What the stall guard finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nobody waits, and the guard ends.
    Idle,
    /// Requests have been sent since the last look.
    Moving,
    /// None has; one more is in flight now.
    Stalled,
}

pub(super) struct Queue<T> {
    rules: Rules,
    window: Window,
    waiting: VecDeque<T>,
    /// The requests in flight.
    in_flight: usize,
    /// How many of them have not taken their operations yet.
    gathering: usize,
    /// How many of them the stall guard let through beyond the window.
    beyond_window: usize,
    /// How many operations the requests in flight carry.
    carried: usize,
    /// How many requests have been sent so far.
    sent: u64,
    /// Whether a stall guard looks after the queue.
    guarded: bool,
}

impl<T: Queued> Queue<T> {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            rules,
            window: Window::default(),
            waiting: VecDeque::new(),
            in_flight: 0,
            gathering: 0,
            beyond_window: 0,
            carried: 0,
            sent: 0,
            guarded: false,
        }
    }

    pub(super) fn rules(&self) -> &Rules {
        &self.rules
    }

    /// How many operations wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// How many operations wait or are in flight.
    fn jobs(&self) -> usize {
        self.waiting.len() + self.carried
    }

    /// Notes that a request was answered at `now`, after `took`.
    pub(super) fn answered(&mut self, now: Duration, took: Duration) {
        self.window.returned(now, took);
    }

    /// Whether an operation may be sent at once, alone; then a request more is in flight.
    ///
    /// Nobody overtakes those who wait. Far from the server only the first operation leaves alone: those that follow
    /// it in the same moment go together.
    pub(super) fn admit(&mut self, bounds: &impl Bounds) -> bool {
        if !self.waiting.is_empty() {
            return false;
        }
        if self.in_flight > 0 {
            let Room { requests, is_far } = self.window.room(self.jobs(), bounds);
            if is_far || self.in_flight >= requests {
                return false;
            }
        }
        self.start();
        self.carried += 1;
        self.sent += 1;
        true
    }

    fn start(&mut self) {
        if self.in_flight == 0 {
            self.window.idle();
        }
        self.in_flight += 1;
    }

    /// Adds an operation; `true` if the queue had no stall guard, which the caller must start.
    pub(super) fn push(&mut self, one: T) -> bool {
        self.waiting.push_back(one);
        !std::mem::replace(&mut self.guarded, true)
    }

    /// Whether one more request is to leave, with what waits by then. It is in flight from now on, and gathers.
    pub(super) fn gather(&mut self, bounds: &impl Bounds) -> bool {
        // Those that gather already take a full batch each.
        let gathers = self.waiting.len() > self.gathering * self.rules.operations
            && self.in_flight < self.window.room(self.jobs(), bounds).requests;
        if gathers {
            self.start();
            self.gathering += 1;
        }
        gathers
    }

    /// Notes that a request has returned, and gathers what waits for the next one.
    pub(super) fn gather_again(&mut self) {
        self.gathering += 1;
    }

    /// Whether those who gather do so for as long as more operations come. Far from the server that costs no time.
    pub(super) fn is_patient(&self, bounds: &impl Bounds) -> bool {
        self.waiting.len() < self.rules.operations && self.window.room(self.jobs(), bounds).is_far
    }

    /// What is sent by a request that gathered, and that carried so many operations before.
    ///
    /// `None` if nothing waits or enough requests are in flight without it; then it is not in flight any more.
    pub(super) fn next(&mut self, returned: usize, gathered: bool, bounds: &impl Bounds) -> Option<Batch<T>> {
        self.carried -= returned;
        self.gathering -= usize::from(gathered);
        let jobs = self.jobs();
        let Room { requests, is_far } = self.window.room(jobs, bounds);
        if self.in_flight <= requests {
            self.beyond_window = 0;
        }
        if self.in_flight <= requests + self.beyond_window {
            // Near by, all requests together carry what there is. Far away, whatever waits leaves.
            let batch = self.take(if is_far { usize::MAX } else { jobs.div_ceil(requests) });
            if batch.len() > 0 {
                self.sent += 1;
                self.carried += batch.len();
                return Some(batch);
            }
        }
        self.in_flight -= 1;
        None
    }

    /// Takes at most `share` operations that may travel together, the oldest first.
    fn take(&mut self, share: usize) -> Batch<T> {
        let Rules { operations: most_operations, bytes: most_bytes, duplicates, .. } = self.rules;
        let mut batch = Batch { together: Vec::new(), alone: Vec::new() };
        let (mut operations, mut bytes) = (0, 0);
        let mut keys = HashSet::new();
        let mut left = Vec::new();
        // The look ahead is bounded, or a queue full of one key would be walked through for each of its operations.
        while batch.len() < share
            && operations < most_operations
            && left.len() < 2 * most_operations
            && let Some(one) = self.waiting.pop_front()
        {
            if one.is_abandoned() {
                continue;
            }
            let (more, size) = (one.job().operations(), one.job().bytes());
            let fits =
                batch.together.is_empty() || (operations + more <= most_operations && bytes + size <= most_bytes);
            // The keys of what stays behind count too: an operation must not overtake an older one of its key.
            let is_first = one.job().unique_key().is_none_or(|key| keys.insert(key));
            if fits && is_first {
                (operations, bytes) = (operations + more, bytes + size);
                batch.together.push(one);
            } else if !is_first && duplicates == Duplicates::Alone {
                batch.alone.push(one);
            } else {
                left.push(one);
            }
        }
        for one in left.into_iter().rev() {
            self.waiting.push_front(one);
        }
        batch
    }

    /// Compares the number of requests sent with what it was at the last look, which it replaces.
    pub(super) fn progress(&mut self, last_look: &mut Option<u64>) -> Progress {
        if self.waiting.is_empty() {
            return Progress::Idle;
        }
        if last_look.replace(self.sent) != Some(self.sent) {
            return Progress::Moving;
        }
        self.in_flight += 1;
        self.beyond_window += 1;
        Progress::Stalled
    }

    /// Notes that the stall guard has ended.
    pub(super) fn guard_ended(&mut self) {
        self.guarded = false;
    }
}

#[cfg(test)]
mod tests;
