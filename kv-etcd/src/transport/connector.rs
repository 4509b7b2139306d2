//! The connection that calls use, and the task that makes the next one.
//!
//! The handle finds an endpoint that serves, not the single call ([clause S3](kv_core::contract::CLAUSES#S3)): the task
//! continues when the call that started it has given up, and the next call uses its connection.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use kv_core::backend::backoff::{Backoff, Recovery};
use kv_core::backend::rotation::Rotation;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until, timeout};

use crate::config::{Config, NAME};
use crate::error::Unreachable;
use crate::transport::connection::{Companions, Connection};
use crate::transport::health::Health;
use crate::transport::http2::Volume;

/// If an endpoint has not answered for this long, the next one is tried as well.
const STAGGER: Duration = Duration::from_millis(300);
/// How long an attempt to connect to an endpoint may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The pauses before an endpoint that failed is tried again. They are short, because an election takes a second or two.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The task continues for this long after the last call asked, because callers may come back after a pause.
const LINGER: Duration = Duration::from_secs(2);

/// A connection that the calls of one runtime share. Dropping it ends the task.
pub(super) struct Connector(Arc<Shared>);

struct Shared {
    config: Arc<Config>,
    volume: Volume,
    companions: Companions,
    /// In which order endpoints are tried.
    rotation: Rotation,
    state: Mutex<State>,
}

struct State {
    current: Option<Arc<Connection>>,
    endpoints: Vec<Tries>,
    /// The reports of the task that connects, and the handle that ends it.
    task: Option<(watch::Receiver<Report>, AbortHandle)>,
    /// When a call last asked for a connection.
    last_asked: Instant,
    /// Whether there was a connection before.
    again: bool,
    recovery: Recovery,
}

/// Why there is no connection so far.
type Report = Option<Unreachable>;

/// What is remembered of an endpoint.
struct Tries {
    pauses: Backoff,
    /// The endpoint is not tried before.
    ready: Instant,
    worked: bool,
    failure: Report,
}

impl Drop for Connector {
    fn drop(&mut self) {
        if let Some((_, task)) = self.0.state().task.take() {
            task.abort();
        }
    }
}

impl Connector {
    pub(super) fn new(config: &Arc<Config>, volume: Volume, companions: Companions) -> Self {
        let tries = || Tries {
            pauses: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE),
            ready: Instant::now(),
            worked: false,
            failure: None,
        };
        let what = if volume == Volume::Large { "connection for large values" } else { "connection" };
        let state = State {
            current: None,
            endpoints: config.endpoints.iter().map(|_| tries()).collect(),
            task: None,
            last_asked: Instant::now(),
            again: false,
            recovery: Recovery::new(NAME, what, Backoff::new(FIRST_PAUSE, LONGEST_PAUSE)),
        };
        let rotation = Rotation::new(config.endpoints.len());
        let (config, state) = (Arc::clone(config), Mutex::new(state));
        Self(Arc::new(Shared { config, volume, companions, rotation, state }))
    }

    /// Returns the current connection, or waits for the next one.
    ///
    /// Fails only if every endpoint has failed permanently. Other failures are passed to `note`.
    pub(super) async fn connection(&self, note: impl Fn(&Unreachable)) -> Result<Arc<Connection>, Unreachable> {
        loop {
            let mut reports = {
                let mut state = self.0.state();
                if let Some(connection) = self.0.usable(&state) {
                    return Ok(connection);
                }
                self.0.seek(&mut state)
            };
            // This report may be outdated, so it is noted but ends nothing.
            if let Some(failure) = &*reports.borrow_and_update() {
                note(failure);
            }
            // An error means that the task has ended.
            while reports.changed().await.is_ok() {
                let Some(failure) = reports.borrow_and_update().clone() else { continue };
                if failure.is_permanent() {
                    return Err(failure);
                }
                note(&failure);
            }
        }
    }

    /// The endpoint of the current connection, or else the one that is tried first.
    pub(super) fn next_endpoint(&self) -> Arc<str> {
        Arc::clone(&self.0.config.endpoints[self.0.rotation.first()].address)
    }

    /// How many requests the server takes at once on the current connection.
    pub(super) fn most_in_flight(&self) -> usize {
        self.0.state().current.as_ref().map_or(usize::MAX, |current| current.most_in_flight())
    }

    /// Makes the next call connect anew, to another endpoint first; what is in flight on the connection goes on.
    pub(super) fn abandon(&self, connection: &Arc<Connection>) {
        let mut state = self.0.state();
        if state.current.as_ref().is_some_and(|current| Arc::ptr_eq(current, connection)) {
            state.current = None;
            self.0.rotation.failed(connection.endpoint);
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The current connection, unless it has ended or its server does not respond.
    fn usable(&self, state: &State) -> Option<Arc<Connection>> {
        let best_left = left_at(self.config.endpoints.len());
        state.current.clone().filter(|current| !current.is_closed() && current.health() < best_left)
    }

    /// Starts the task that connects, unless it runs, and returns its reports.
    fn seek(self: &Arc<Self>, state: &mut State) -> watch::Receiver<Report> {
        state.last_asked = Instant::now();
        if let Some((reports, task)) = &state.task
            && !task.is_finished()
        {
            return reports.clone();
        }
        if let Some(current) = &state.current {
            self.rotation.failed(current.endpoint);
        }
        if state.again {
            let why = state.current.as_ref().filter(|current| !current.is_closed());
            let why =
                if why.is_some() { "the server does not respond" } else { "the connection ended or was given up" };
            let _ = state.recovery.failed(&why);
        }
        for tries in &mut state.endpoints {
            tries.failure = None;
        }
        let (sender, reports) = watch::channel(None);
        let task = tokio::spawn(Arc::clone(self).run(sender)).abort_handle();
        state.task = Some((reports.clone(), task));
        reports
    }

    /// Tries the endpoints in turn until one connects. The next one is tried at once after a failure, and after
    /// [`STAGGER`] without an answer.
    async fn run(self: Arc<Self>, reports: watch::Sender<Report>) {
        let mut trying = FuturesUnordered::new();
        let mut tried: Vec<usize> = Vec::new();
        let mut next = Instant::now();
        loop {
            let waiting = self.next_to_try(&tried, next);
            tokio::select! {
                biased;
                Some((index, result)) = trying.next() => match result {
                    Ok(connection) => return self.install(connection),
                    Err(failure) => {
                        tried.retain(|one| *one != index);
                        next = Instant::now();
                        reports.send_replace(Some(self.failed(index, failure)));
                        // The state itself keeps one receiver, so with one receiver no call waits.
                        if reports.receiver_count() <= 1 && self.state().last_asked.elapsed() >= LINGER {
                            return;
                        }
                    }
                },
                Some(index) = async {
                    let (index, ready) = waiting?;
                    sleep_until(ready).await;
                    Some(index)
                } => {
                    next = Instant::now() + STAGGER;
                    tried.push(index);
                    trying.push(self.open(index));
                    reports.send_replace(Some(self.begun(index)));
                }
            }
        }
    }

    /// The endpoint that is tried next, and when: the first in the order whose pause is over, or else the one whose
    /// pause ends first.
    fn next_to_try(&self, trying: &[usize], earliest: Instant) -> Option<(usize, Instant)> {
        let order = self.rotation.order();
        let state = self.state();
        let ready = |index: usize| (index, state.endpoints[index].ready.max(earliest));
        order.into_iter().filter(|index| !trying.contains(index)).map(ready).min_by_key(|(_, ready)| *ready)
    }

    async fn open(&self, index: usize) -> (usize, Result<Arc<Connection>, Unreachable>) {
        let worked = self.state().endpoints[index].worked;
        let endpoint = &self.config.endpoints[index];
        let opening = Connection::open(endpoint, index, self.volume, worked, &self.companions);
        let opened = timeout(PATIENCE, opening).await;
        (index, opened.unwrap_or_else(|_| Err(Unreachable::for_now(format!("no answer within {PATIENCE:?}")))))
    }

    fn install(&self, connection: Arc<Connection>) {
        let mut state = self.state();
        self.rotation.answered(connection.endpoint);
        let tries = &mut state.endpoints[connection.endpoint];
        tries.pauses.reset();
        (tries.worked, tries.failure) = (true, None);
        state.recovery.worked();
        state.again = true;
        state.current = Some(connection);
    }

    fn begun(&self, index: usize) -> Unreachable {
        let mut state = self.state();
        state.endpoints[index].failure.get_or_insert_with(|| Unreachable::for_now("no answer so far"));
        self.report(&state)
    }

    fn failed(&self, index: usize, failure: Unreachable) -> Unreachable {
        self.rotation.failed(index);
        let mut state = self.state();
        let tries = &mut state.endpoints[index];
        tries.ready = Instant::now() + tries.pauses.next();
        tries.failure = Some(failure);
        let report = self.report(&state);
        if state.again {
            let _ = state.recovery.failed(&report);
        }
        report
    }

    /// Why there is no connection, endpoint by endpoint.
    fn report(&self, state: &State) -> Unreachable {
        let not_tried = Unreachable::for_now("not tried so far");
        let endpoints = self.config.endpoints.iter().zip(&state.endpoints);
        let said =
            endpoints.map(|(endpoint, tries)| (&*endpoint.address, tries.failure.as_ref().unwrap_or(&not_tried)));
        Unreachable::all(said)
    }
}

/// A connection in this state is replaced by another, with this number of endpoints.
///
/// With several endpoints, a connection is replaced as soon as its server answers no call, because another endpoint may
/// serve. With one endpoint, a new connection would hardly do better.
pub(super) fn left_at(endpoints: usize) -> Health {
    if endpoints > 1 { Health::Unresponsive } else { Health::Silent }
}
