//! What the workloads of one run share: connections, the end of the run, the clock.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kv_core::{Kv, Result};
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior};

use super::storm::{Role, Storm};
use crate::context::Context;
use crate::outcome::Outcome;
use crate::random::Random;

/// How many connections all clients except observers share.
const SHARED: usize = 3;

/// One run of the workloads, in a directory of its own.
#[derive(Clone)]
pub(crate) struct Stage {
    pub(crate) cx: Context,
    storm: Arc<dyn Storm>,
    directory: String,
    round: u32,
    began: Instant,
    shared: Arc<tokio::sync::Mutex<HashMap<usize, Kv>>>,
    over: Arc<watch::Sender<bool>>,
    /// `None` while the fault is in force.
    calm_since: Arc<Mutex<Option<Instant>>>,
}

impl Stage {
    pub(crate) fn new(cx: &Context, storm: Arc<dyn Storm>, round: u32) -> Self {
        Self {
            cx: cx.clone(),
            storm,
            directory: format!("{}/round-{round}", cx.directory()),
            round,
            began: Instant::now(),
            shared: Arc::default(),
            over: Arc::new(watch::Sender::new(false)),
            calm_since: Arc::new(Mutex::new(Some(Instant::now()))),
        }
    }

    /// Connects to the endpoints that the storm assigns to a role. An observer has a connection of its own. Other
    /// clients share a few, like the tasks of a service, so that their concurrent calls may travel together.
    pub(crate) async fn connect(&self, role: Role, number: usize) -> Result<Kv> {
        if role == Role::Observer {
            return self.open(role, number).await;
        }
        let number = number % SHARED;
        let mut shared = self.shared.lock().await;
        if let Some(kv) = shared.get(&number) {
            return Ok(kv.clone());
        }
        let kv = self.open(role, number).await?;
        shared.insert(number, kv.clone());
        Ok(kv)
    }

    async fn open(&self, role: Role, number: usize) -> Result<Kv> {
        let kv = match (self.storm.endpoints(role, number), self.cx.fixture().faults()) {
            (Some(endpoints), Some(faults)) => faults.connect_to(&endpoints).await?,
            _ => self.cx.fixture().connect().await?,
        };
        kv.scoped(&self.directory)
    }

    /// Retries until the connection succeeds, for clients that connect during a fault.
    pub(crate) async fn connect_in_the_end(&self, role: Role, number: usize) -> Outcome<Kv> {
        self.cx.until("A6", "a client connects", || async { Ok(self.connect(role, number).await.ok()) }).await
    }

    pub(crate) fn random(&self, stream: u64) -> Random {
        Random::new(self.cx.seed(), u64::from(self.round) << 32 | stream)
    }

    /// A time to live longer than a healthy cluster needs to elect another leader.
    pub(crate) fn ttl(&self) -> Duration {
        (self.cx.ttl() * 2).clamp(Duration::from_secs(4), self.cx.limits().max_ttl)
    }

    pub(crate) fn millis(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn is_over(&self) -> bool {
        *self.over.borrow()
    }

    /// Waits until the workloads should end.
    pub(crate) async fn over(&self) {
        // The sender is part of this stage and cannot be gone.
        let _ = self.over.subscribe().wait_for(|over| *over).await;
    }

    pub(crate) fn end(&self) {
        self.over.send_replace(true);
    }

    /// When the last fault ended; `None` while one is in force.
    pub(crate) fn calm_since(&self) -> Option<Instant> {
        *self.calm_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_calm(&self, calm: bool) {
        *self.calm_since.lock().unwrap_or_else(PoisonError::into_inner) = calm.then(Instant::now);
    }
}

/// The rate of one client of a workload: high enough that many operations are in flight when a fault begins, low enough
/// that the history can be judged.
pub(crate) fn pace(millis: u64) -> Interval {
    let mut interval = tokio::time::interval(Duration::from_millis(millis));
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}
