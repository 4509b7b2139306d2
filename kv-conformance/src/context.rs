//! What a case works with: clients in the case's own directory, and the store's times.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kv_core::{Kv, Limits};
use tokio::time::Instant;

use crate::client::Client;
use crate::fixture::{Faults, Fixture};
use crate::log::Log;
use crate::outcome::{Broke, Outcome};

/// The environment of one case.
#[derive(Clone)]
pub struct Context {
    fixture: Arc<dyn Fixture>,
    directory: String,
    log: Log,
    limits: Limits,
    clients: Arc<AtomicUsize>,
    seed: u64,
    summary: Arc<Mutex<Option<String>>>,
}

impl Context {
    pub(crate) fn new(fixture: Arc<dyn Fixture>, directory: String, log: Log, limits: Limits, seed: u64) -> Self {
        Self { fixture, directory, log, limits, clients: Arc::default(), seed, summary: Arc::default() }
    }

    /// Sets a text that is reported also if the case passes.
    pub(crate) fn summarize(&self, summary: String) {
        *self.summary.lock().unwrap_or_else(PoisonError::into_inner) = Some(summary);
    }

    pub(crate) fn summary(&self) -> Option<String> {
        self.summary.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Connects a new client, independent of all others, in the directory of this case.
    pub(crate) async fn client(&self) -> Outcome<Client> {
        Ok(self.around(self.fixture.connect().await?.scoped(&self.directory)?))
    }

    /// A client that uses a handle below the directory of this case.
    pub(crate) fn around(&self, kv: Kv) -> Client {
        let number = self.clients.fetch_add(1, Ordering::Relaxed) + 1;
        Client::new(kv, format!("client {number}"), self.log.clone(), self.patience())
    }

    pub(crate) fn fixture(&self) -> &dyn Fixture {
        &*self.fixture
    }

    /// Fault injection. A case that uses it declares the need.
    pub(crate) fn faults(&self) -> Outcome<&dyn Faults> {
        self.fixture.faults().ok_or_else(|| Broke { clause: None, what: "the fixture has no faults".to_owned() })
    }

    /// Injects or heals a fault, and logs it. If the fixture fails to do so, no clause is blamed.
    pub(crate) async fn hurt(&self, what: &str, fault: impl Future<Output = Result<(), String>>) -> Outcome {
        self.note(what);
        fault.await.map_err(|error| Broke { clause: None, what: format!("the fixture could not {what}: {error}") })
    }

    /// The number of the leader.
    pub(crate) async fn leader(&self) -> Outcome<usize> {
        self.faults()?.leader().await.map_err(|error| Broke::new("A6", error))
    }

    /// The directory of this case, relative to the store's root.
    pub(crate) fn directory(&self) -> &str {
        &self.directory
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    /// The seed of everything random.
    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    /// The factor on the repetitions of random parts.
    pub(crate) fn effort(&self) -> u32 {
        self.fixture.effort().max(1)
    }

    /// How long to wait for what should happen at once.
    pub(crate) fn patience(&self) -> Duration {
        self.fixture.patience()
    }

    /// A time to live that a case can wait out.
    pub(crate) fn ttl(&self) -> Duration {
        self.fixture.ttl(&self.limits)
    }

    /// A time to live that does not lapse during a case.
    pub(crate) fn long_ttl(&self) -> Duration {
        (self.ttl() * 10).max(Duration::from_secs(300)).min(self.limits.max_ttl)
    }

    /// How long after its last renewal the end of a lease of [`ttl`](Self::ttl) must be visible.
    pub(crate) fn expiry(&self) -> Duration {
        self.ttl() + self.limits.expiry_lag.after(self.ttl()) + self.patience()
    }

    pub(crate) fn note(&self, what: impl std::fmt::Display) {
        self.log.note(what);
    }

    /// Polls with growing pauses until there is an answer. Without one the clause is broken.
    pub(crate) async fn until<T: Send, F: Future<Output = Outcome<Option<T>>> + Send>(
        &self,
        clause: &'static str,
        what: &str,
        ask: impl Fn() -> F + Send + Sync,
    ) -> Outcome<T> {
        let asking = async {
            let mut pause = Duration::from_millis(5);
            loop {
                if let Some(answer) = ask().await? {
                    return Ok(answer);
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_millis(250));
            }
        };
        let late = |_| Err(Broke::new(clause, format!("{what}: not within {:?}", self.expiry())));
        tokio::time::timeout(self.expiry(), asking).await.unwrap_or_else(late)
    }

    /// Runs something that must renew a lease in time. If it fails and this machine or the store was too slow for the
    /// time to live, it runs again with a longer one.
    pub(crate) async fn steadily<F: Future<Output = Outcome> + Send>(
        &self,
        run: impl Fn(Duration) -> F + Send + Sync,
    ) -> Outcome {
        let kv = self.fixture.connect().await?;
        let mut ttl = self.ttl().max(Duration::from_secs(2));
        loop {
            let (mut machine, mut store) = (Duration::ZERO, Duration::ZERO);
            let outcome = tokio::select! {
                outcome = Box::pin(run(ttl)) => outcome,
                () = watch_the_clock(&mut machine) => Ok(()),
                () = watch_the_store(&kv, &mut store) => Ok(()),
            };
            let late = machine.max(store);
            if outcome.is_ok() || late < ttl / 8 || ttl > Duration::from_secs(10) {
                return outcome;
            }
            self.note(format_args!(
                "this machine or the store was {late:?} late: trying again with a longer time to live"
            ));
            ttl *= 2;
        }
    }

    /// The longest that a lease of this time to live can last without renewal.
    pub(crate) fn beyond(&self, ttl: Duration) -> Duration {
        ttl + self.limits.expiry_lag.after(ttl)
    }
}

/// Records the greatest delay of timers while it is polled.
async fn watch_the_clock(late: &mut Duration) {
    const TICK: Duration = Duration::from_millis(20);
    loop {
        let due = Instant::now() + TICK;
        tokio::time::sleep_until(due).await;
        *late = due.elapsed().max(*late);
    }
}

/// Records the longest time that the store takes to answer while it is polled. A pending answer counts.
async fn watch_the_store(kv: &Kv, late: &mut Duration) {
    const TICK: Duration = Duration::from_millis(50);
    loop {
        let asked = Instant::now();
        let mut answer = Box::pin(kv.ping());
        while tokio::time::timeout(TICK, &mut answer).await.is_err() {
            *late = asked.elapsed().max(*late);
        }
        tokio::time::sleep(TICK).await;
    }
}
