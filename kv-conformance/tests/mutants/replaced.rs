//! A store whose history can be replaced by a copy of its past, as a server restored from a snapshot.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use kv_conformance::{CASES, Census, Faults, Fixture, Need, Suite, Verdict};
use kv_core::backend::{Backend, EventStream, Grant, Lease, Operation, Snapshot, Txn};
use kv_core::{Error, Kv, Limits, Result, Value};
use kv_memory::MemoryBackend;
use libtest_mimic::Failed;
use tokio::sync::watch;

use crate::known_locks::lock;

/// What a watch does when the store is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Replacement {
    /// It ends with `Compacted`.
    Told,
    /// It waits on for what the former store will never tell.
    Silent,
    /// It shows what is written from then on, and nothing of the difference.
    LaterOnly,
    /// It shows what the copy holds as created, and nothing of what is gone.
    WithoutDeletions,
    /// It ends with `Compacted`, and leases stand that only the former store knows.
    LeasesStand,
}

/// The ways to be wrong, and what the store does.
pub(crate) const WRONG: [(Replacement, &str); 4] = [
    (Replacement::Silent, "a store that is replaced in silence"),
    (Replacement::LaterOnly, "a store that shows only later changes once it is replaced"),
    (Replacement::WithoutDeletions, "a store that shows no deletions when it is replaced"),
    (Replacement::LeasesStand, "a store whose leases outlive it when it is replaced"),
];

/// The store of now, and how often it was replaced.
#[derive(Clone)]
struct Replaceable {
    replacement: Replacement,
    store: Arc<Mutex<MemoryBackend>>,
    saved: Arc<Mutex<Snapshot>>,
    replaced: Arc<watch::Sender<u64>>,
}

impl Replaceable {
    fn store(&self) -> MemoryBackend {
        lock(&self.store).clone()
    }

    fn of_this_store(&self, grant: Grant) -> Grant {
        let (key, replaced) = (grant.guard.key.clone(), self.replaced.subscribe());
        let stands = self.replacement == Replacement::LeasesStand;
        Grant { lease: Box::new(OfOneStore { lease: grant.lease, key, replaced, stands }), ..grant }
    }

    /// Follows one store until it is replaced.
    fn follow(&self, prefix: &str, after: u64, events: EventStream) -> EventStream {
        let (this, prefix) = (self.clone(), prefix.to_owned());
        let mut replaced = self.replaced.subscribe();
        let end = async move { drop(replaced.changed().await) };
        let then = stream::once(async move {
            match this.replacement {
                Replacement::Told | Replacement::LeasesStand => {
                    stream::iter([Err(Error::Compacted { after, oldest: None })]).boxed()
                }
                Replacement::Silent => stream::pending().boxed(),
                Replacement::LaterOnly => {
                    this.store().watch(&prefix, 0).await.unwrap_or_else(|_| stream::empty().boxed())
                }
                Replacement::WithoutDeletions => match this.store().watch(&prefix, 1).await {
                    Ok(events) => events,
                    Err(_) => stream::empty().boxed(),
                },
            }
        });
        events.take_until(Box::pin(end)).chain(then.flatten()).boxed()
    }
}

#[async_trait]
impl Backend for Replaceable {
    fn name(&self) -> &'static str {
        "replaceable"
    }

    fn limits(&self) -> Limits {
        self.store().limits()
    }

    async fn ping(&self) -> Result<()> {
        self.store().ping().await
    }

    async fn get(&self, key: &str) -> Result<Value> {
        self.store().get(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Snapshot> {
        self.store().list(prefix).await
    }

    async fn keys(&self, prefix: &str) -> Result<Vec<String>> {
        self.store().keys(prefix).await
    }

    async fn commit(&self, txn: Txn) -> Result<Option<u64>> {
        self.store().commit(txn).await
    }

    async fn watch(&self, prefix: &str, after: u64) -> Result<EventStream> {
        let events = self.store().watch(prefix, after).await?;
        Ok(self.follow(prefix, after, events))
    }

    async fn observe(&self, prefix: &str) -> Result<(Snapshot, EventStream)> {
        let (snapshot, events) = self.store().observe(prefix).await?;
        let events = self.follow(prefix, snapshot.index, events);
        Ok((snapshot, events))
    }

    async fn ephemeral_key(&self, key: &str, ttl: Duration) -> Result<Grant> {
        Ok(self.of_this_store(self.store().ephemeral_key(key, ttl).await?))
    }

    async fn lock(&self, key: &str, ttl: Duration) -> Result<Grant> {
        let mut replaced = self.replaced.subscribe();
        loop {
            let store = self.store();
            tokio::select! {
                grant = store.lock(key, ttl) => return Ok(self.of_this_store(grant?)),
                _ = replaced.changed() => {}
            }
        }
    }

    async fn try_lock(&self, key: &str, ttl: Duration) -> Result<Option<Grant>> {
        Ok(self.store().try_lock(key, ttl).await?.map(|grant| self.of_this_store(grant)))
    }
}

/// A lease that is lost when its store is replaced.
struct OfOneStore {
    lease: Box<dyn Lease>,
    key: String,
    replaced: watch::Receiver<u64>,
    stands: bool,
}

impl OfOneStore {
    fn check(&self) -> Result<()> {
        let is_lost = !self.stands && self.replaced.has_changed().unwrap_or(true);
        if is_lost { Err(Error::Lost { key: self.key.clone() }) } else { Ok(()) }
    }
}

#[async_trait]
impl Lease for OfOneStore {
    async fn renew(&self) -> Result<()> {
        self.check()?;
        self.lease.renew().await
    }

    async fn set(&self, data: Bytes) -> Result<u64> {
        self.check()?;
        self.lease.set(data).await
    }

    async fn release(&self) -> Result<()> {
        self.check()?;
        self.lease.release().await
    }
}

#[async_trait]
impl Fixture for Replaceable {
    fn name(&self) -> String {
        format!("{:?}", self.replacement)
    }

    async fn connect(&self) -> Result<Kv> {
        Ok(Kv::new(Arc::new(self.clone())))
    }

    fn ttl(&self, _: &Limits) -> Duration {
        Duration::from_millis(500)
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(if self.replacement == Replacement::Told { 60 } else { 3 })
    }

    fn faults(&self) -> Option<&dyn Faults> {
        Some(self)
    }
}

/// Nothing else can be done to it.
fn no<T>() -> std::result::Result<T, String> {
    Err("this store can only be replaced".to_owned())
}

#[async_trait]
impl Faults for Replaceable {
    fn endpoints(&self) -> Vec<String> {
        Vec::new()
    }

    async fn connect_to(&self, _: &[String]) -> Result<Kv> {
        self.connect().await
    }

    async fn census(&self) -> std::result::Result<Census, String> {
        no()
    }

    async fn leader(&self) -> std::result::Result<usize, String> {
        no()
    }

    async fn kill(&self, _: usize) -> std::result::Result<(), String> {
        no()
    }

    async fn start_again(&self, _: usize) -> std::result::Result<(), String> {
        no()
    }

    async fn pause(&self, _: usize) -> std::result::Result<(), String> {
        no()
    }

    async fn resume(&self, _: usize) -> std::result::Result<(), String> {
        no()
    }

    async fn isolate(&self, _: usize) -> std::result::Result<(), String> {
        no()
    }

    async fn rejoin(&self, _: usize) -> std::result::Result<(), String> {
        no()
    }

    async fn compact(&self) -> std::result::Result<(), String> {
        no()
    }

    fn offers(&self, need: Need) -> bool {
        need == Need::ReplacedHistory
    }

    async fn save_history(&self) -> std::result::Result<(), String> {
        *lock(&self.saved) = self.store().list("").await.map_err(|error| error.to_string())?;
        Ok(())
    }

    async fn replace_history(&self) -> std::result::Result<(), String> {
        let (copy, saved) = (MemoryBackend::new(), lock(&self.saved).clone());
        let values: BTreeMap<u64, Vec<_>> =
            saved.entries.into_iter().fold(BTreeMap::new(), |mut by_index, (key, value)| {
                by_index.entry(value.index).or_insert_with(Vec::new).push(Operation::Set { key, data: value.data });
                by_index
            });
        for operations in values.into_values() {
            copy.commit(Txn { checks: Vec::new(), operations }).await.map_err(|error| error.to_string())?;
        }
        *lock(&self.store) = copy;
        self.replaced.send_modify(|times| *times += 1);
        Ok(())
    }
}

/// Runs the cases of replaced stores, which must all pass, or find E8 broken.
pub(crate) async fn judge(replacement: Replacement) -> std::result::Result<(), Failed> {
    let (store, saved, replaced) = <_>::default();
    let suite = Suite::new(Replaceable { replacement, store, saved, replaced }).await?;
    let (mut broken, mut cases) = (Vec::new(), 0);
    for case in CASES.iter().filter(|case| case.needs.contains(&Need::ReplacedHistory)) {
        cases += 1;
        match suite.run(case).await {
            Verdict::Passed(_) => {}
            Verdict::Failed(report) => broken.push(report.clause),
            Verdict::NotRun(need) => return Err(format!("{} was not run: {need:?}", case.name).into()),
        }
    }
    let is_as_expected = match replacement {
        Replacement::Told => cases > 0 && broken.is_empty(),
        _ => broken.contains(&"E8"),
    };
    if is_as_expected { Ok(()) } else { Err(format!("{cases} cases found {broken:?} broken").into()) }
}
