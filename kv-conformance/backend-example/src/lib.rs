//! A store in one file of JSON, written anew with every change: small enough to be read in one sitting, and real.
//!
//! `file:///root?path=PATH`. Handles within one program share the file; programs may not. Opening it again brings
//! everything back but what lived on leases, whose holders are gone.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use kv_core::{
    Address, Backend, Check, Error, Event, EventStream, EventType, ExpiryLag, Grant, Guard, Lease, Limits, Listing,
    Operation, Registration, Result, Snapshot, Txn, Value, WatchHistory,
};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// Registers this backend.
pub const REGISTRATION: Registration = Registration {
    name: "file",
    schemes: &["file"],
    parameters: &["path"],
    generic_http: false,
    connect: |address| Box::pin(std::future::ready(connect(&address))),
};

kv_core::register!(REGISTRATION);

/// The files that are open in this program.
static OPEN: LazyLock<Mutex<HashMap<PathBuf, Weak<Store>>>> = LazyLock::new(Mutex::default);

fn connect(address: &Address) -> Result<Arc<dyn Backend>> {
    let path = address.parameter("path").ok_or_else(|| Error::invalid_address("parameter `path` is missing"))?;
    let mut open = lock(&OPEN);
    if let Some(store) = open.get(Path::new(path)).and_then(Weak::upgrade) {
        return Ok(Arc::new(FileBackend(store)));
    }
    let state = State::open(path.into())?;
    let store = Arc::new(Store { changed: watch::Sender::new(()), state: Mutex::new(state) });
    open.insert(path.into(), Arc::downgrade(&store));
    Ok(Arc::new(FileBackend(store)))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(error: std::io::Error) -> Error {
    Error::unavailable(format!("the file cannot be read or written: {error}"))
}

struct Store {
    state: Mutex<State>,
    /// Wakes watches and those who wait for a lock.
    changed: watch::Sender<()>,
}

struct State {
    path: PathBuf,
    now: Listing,
    /// The last events, and the index after which they are complete.
    history: VecDeque<Event>,
    compacted: u64,
    /// By token.
    leases: HashMap<u64, Leased>,
}

struct Leased {
    key: String,
    is_lock: bool,
    ttl: Duration,
    deadline: Instant,
}

impl State {
    const HISTORY: usize = 10_000;

    fn open(path: PathBuf) -> Result<Self> {
        let now = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| failed(error.into()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Listing { index: 1, ..Listing::default() },
            Err(error) => return Err(failed(error)),
        };
        Ok(Self { path, compacted: now.index, now, history: VecDeque::new(), leases: HashMap::new() })
    }

    /// Writes the file, then lets the change be seen: the only way that anything changes.
    fn apply(&mut self, events: Vec<Event>) -> Result<u64> {
        let mut next = self.now.clone();
        next.index += 1;
        for event in &events {
            match event.event_type {
                EventType::Delete => drop(next.values.remove(&event.key)),
                _ => drop(next.values.insert(event.key.clone(), Value::new(event.data.clone(), next.index))),
            }
        }
        let mut kept = next.clone();
        self.leases.values().for_each(|leased| drop(kept.values.remove(&leased.key)));
        let text = serde_json::to_vec(&kept).map_err(|error| failed(error.into()))?;
        let new = self.path.with_extension("new");
        std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &self.path)).map_err(failed)?;
        self.now = next;
        self.history.extend(events);
        while self.history.len() > Self::HISTORY {
            self.compacted = self.history.pop_front().map_or(0, |event| event.index);
        }
        Ok(self.now.index)
    }

    fn event(&self, key: String, data: Option<Bytes>) -> Event {
        let event_type = match (&data, self.now.values.contains_key(&key)) {
            (None, _) => EventType::Delete,
            (Some(_), true) => EventType::Update,
            (Some(_), false) => EventType::Create,
        };
        Event { key, event_type, data: data.unwrap_or_default(), index: self.now.index + 1 }
    }

    fn holds(&self, check: &Check) -> Result<()> {
        match check {
            Check::Index { key, index } if self.now.values.get(key).map_or(0, |value| value.index) != *index => {
                Err(Error::Conflict { key: key.clone() })
            }
            Check::Held(guard) if !self.leases.contains_key(&guard.token) => {
                Err(Error::Lost { key: guard.key.clone() })
            }
            _ => Ok(()),
        }
    }

    fn commit(&mut self, txn: Txn) -> Result<Option<u64>> {
        txn.checks.iter().try_for_each(|check| self.holds(check))?;
        let sets = txn.operations.iter().any(|operation| matches!(operation, Operation::Set { .. }));
        let mut events = Vec::new();
        for operation in txn.operations {
            match operation {
                Operation::Set { key, data } => events.push(self.event(key, Some(data))),
                Operation::Delete { key } if self.now.values.contains_key(&key) => events.push(self.event(key, None)),
                Operation::Delete { .. } => {}
                Operation::DeletePrefix { prefix } => {
                    events.extend(self.below(&prefix).map(|(key, _)| self.event(key.clone(), None)));
                }
            }
        }
        if events.is_empty() {
            return Ok(None);
        }
        // A lease does not survive its key.
        let gone = |key: &str| events.iter().any(|event| event.key == key && event.event_type == EventType::Delete);
        self.leases.retain(|_, leased| leased.is_lock || !gone(&leased.key));
        self.apply(events).map(|index| sets.then_some(index))
    }

    fn below<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a String, &'a Value)> {
        self.now.values.range(prefix.to_owned()..).take_while(move |(key, _)| key.starts_with(prefix))
    }

    /// Takes a lease on a lock or a new key; `None` if the lock is held. Its token is its number.
    fn grant(&mut self, key: &str, ttl: Duration, is_lock: bool) -> Result<Option<u64>> {
        self.holds(&Check::Index { key: key.to_owned(), index: 0 })?;
        if is_lock && self.leases.values().any(|leased| leased.is_lock && leased.key == key) {
            return Ok(None);
        }
        let events = if is_lock { Vec::new() } else { vec![self.event(key.to_owned(), Some(Bytes::new()))] };
        let token = self.now.index + 1;
        self.leases.insert(token, Leased { key: key.to_owned(), is_lock, ttl, deadline: Instant::now() + ttl });
        let applied = self.apply(events);
        if applied.is_err() {
            self.leases.remove(&token);
        }
        applied.map(Some)
    }

    fn end(&mut self, token: u64) -> Result<bool> {
        let Some(leased) = self.leases.remove(&token) else { return Ok(false) };
        if !leased.is_lock {
            self.apply(vec![self.event(leased.key, None)])?;
        }
        Ok(true)
    }
}

impl Store {
    /// Changes the state, and wakes whoever waits for changes.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        let mut state = lock(&self.state);
        let result = change(&mut state);
        self.changed.send_replace(());
        result
    }

    /// Takes a lease, and sees to it that it ends.
    fn grant(self: &Arc<Self>, key: &str, ttl: Duration, is_lock: bool) -> Result<Option<Grant>> {
        let since = Instant::now();
        let Some(token) = self.change(|state| state.grant(key, ttl, is_lock))? else { return Ok(None) };
        tokio::spawn(expire(Arc::downgrade(self), token));
        let guard = Guard { key: key.to_owned(), owner: String::new(), token };
        let lease = Box::new(FileLease { store: self.clone(), key: key.to_owned(), token });
        Ok(Some(Grant { lease, ttl, since, guard }))
    }

    fn watch(self: &Arc<Self>, prefix: &str, after: u64) -> Result<EventStream> {
        let after = if after == 0 { lock(&self.state).now.index } else { after };
        self.after(prefix, after)?;
        let watch = (self.clone(), self.changed.subscribe(), prefix.to_owned(), Some(after));
        let batches = stream::unfold(watch, |(store, mut changes, prefix, after)| async move {
            changes.borrow_and_update();
            let batch = store.after(&prefix, after?);
            if matches!(&batch, Ok((events, _)) if events.is_empty()) {
                changes.changed().await.ok()?;
            }
            let (events, next) = match batch {
                Ok((events, index)) => (events.into_iter().map(Ok).collect(), Some(index)),
                Err(error) => (vec![Err(error)], None),
            };
            Some((stream::iter(events), (store, changes, prefix, next)))
        });
        Ok(batches.flatten().boxed())
    }

    /// The events with an index above `after`, and the index that they reach up to.
    fn after(&self, prefix: &str, after: u64) -> Result<(Vec<Event>, u64)> {
        let state = lock(&self.state);
        if after < state.compacted {
            return Err(Error::Compacted { after, oldest: Some(state.compacted) });
        }
        let begin = state.history.partition_point(|event| event.index <= after);
        let events = state.history.range(begin..).filter(|event| event.key.starts_with(prefix));
        Ok((events.cloned().collect(), after.max(state.now.index)))
    }
}

/// Ends a lease once it has lapsed, however often it is renewed until then.
async fn expire(store: Weak<Store>, token: u64) {
    loop {
        let Some(store) = store.upgrade() else { return };
        let Some(deadline) = lock(&store.state).leases.get(&token).map(|leased| leased.deadline) else { return };
        if deadline <= Instant::now() {
            // Should the file not take it, the handle counts for itself and is lost all the same.
            let _ = store.change(|state| state.end(token));
            return;
        }
        drop(store);
        sleep_until(deadline).await;
    }
}

struct FileLease {
    store: Arc<Store>,
    key: String,
    token: u64,
}

impl FileLease {
    fn lost<T>(&self) -> Result<T> {
        Err(Error::Lost { key: self.key.clone() })
    }
}

#[async_trait]
impl Lease for FileLease {
    async fn renew(&self) -> Result<()> {
        match lock(&self.store.state).leases.get_mut(&self.token) {
            Some(leased) => leased.deadline = Instant::now() + leased.ttl,
            None => return self.lost(),
        }
        Ok(())
    }

    async fn set(&self, data: Bytes) -> Result<u64> {
        self.renew().await?;
        self.store.change(|state| state.apply(vec![state.event(self.key.clone(), Some(data))]))
    }

    async fn release(&self) -> Result<()> {
        if self.store.change(|state| state.end(self.token))? { Ok(()) } else { self.lost() }
    }
}

struct FileBackend(Arc<Store>);

#[async_trait]
impl Backend for FileBackend {
    fn name(&self) -> &'static str {
        REGISTRATION.name
    }

    fn limits(&self) -> Limits {
        Limits {
            key_bytes: 4096,
            value_bytes: 64 << 10,
            txn_ops: 64,
            txn_bytes: 256 << 10,
            // Each change writes the whole file, and renewals wait for it.
            min_ttl: Duration::from_secs(1),
            max_ttl: Duration::from_secs(24 * 60 * 60),
            ttl_step: Duration::from_millis(1),
            expiry_lag: ExpiryLag { fixed: Duration::from_secs(1), ttls: 0 },
            watch_history: WatchHistory::Every,
        }
    }

    async fn ping(&self) -> Result<()> {
        self.0.change(|state| state.apply(Vec::new())).map(drop)
    }

    async fn get(&self, key: &str) -> Result<Value> {
        let value = lock(&self.0.state).now.values.get(key).cloned();
        value.ok_or_else(|| Error::NotFound { key: key.to_owned() })
    }

    async fn list(&self, prefix: &str) -> Result<Snapshot> {
        let state = lock(&self.0.state);
        let entries = state.below(prefix).map(|(key, value)| (key.clone(), value.clone())).collect();
        Ok(Snapshot { entries, index: state.now.index })
    }

    async fn keys(&self, prefix: &str) -> Result<Vec<String>> {
        let state = lock(&self.0.state);
        let child = |key: &str| key[prefix.len()..].split_inclusive('/').next().map(|name| format!("{prefix}{name}"));
        let mut children: Vec<String> = state.below(prefix).filter_map(|(key, _)| child(key)).collect();
        children.sort_unstable();
        children.dedup();
        Ok(children)
    }

    async fn commit(&self, txn: Txn) -> Result<Option<u64>> {
        self.0.change(|state| state.commit(txn))
    }

    async fn watch(&self, prefix: &str, after: u64) -> Result<EventStream> {
        self.0.watch(prefix, after)
    }

    async fn observe(&self, prefix: &str) -> Result<(Snapshot, EventStream)> {
        let snapshot = self.list(prefix).await?;
        Ok((snapshot.clone(), self.0.watch(prefix, snapshot.index)?))
    }

    async fn ephemeral_key(&self, key: &str, ttl: Duration) -> Result<Grant> {
        self.0.grant(key, ttl, false)?.ok_or_else(|| Error::Conflict { key: key.to_owned() })
    }

    async fn lock(&self, key: &str, ttl: Duration) -> Result<Grant> {
        let mut changes = self.0.changed.subscribe();
        loop {
            changes.borrow_and_update();
            if let Some(grant) = self.0.grant(key, ttl, true)? {
                return Ok(grant);
            }
            // The store is held by this backend, so it goes on changing.
            let _ = changes.changed().await;
        }
    }

    async fn try_lock(&self, key: &str, ttl: Duration) -> Result<Option<Grant>> {
        self.0.grant(key, ttl, true)
    }
}
