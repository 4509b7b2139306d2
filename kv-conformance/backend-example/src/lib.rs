//! A store in one file, to which every change is a line of JSON: small enough to be read in one sitting, and real.
//!
//! `file:///root?path=PATH`. Handles within one program share the file; programs may not. Opening it again brings
//! everything back but what lived on leases, whose holders are gone.
//!
//! To stay small it leaves three clauses out: waiters for a lock are served in no order (L13), a commit larger than the
//! history ends a watch (E8), and a lease lapses on the runtime that took it (S1). The memory store keeps them.

use std::collections::{HashMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use kv_core::backend::{Address, Backend, Check, EventStream, Grant, Guard, Lease, Operation, Snapshot, Txn};
use kv_core::clock::Moment;
use kv_core::{
    Error, Event, EventType, ExpiryLag, ForeignWrite, Limits, Listing, LockOrder, MemberLeave, Registration, Result, Value,
    WatchHistory,
};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// Registers this backend.
pub const REGISTRATION: Registration = Registration {
    name: "file",
    schemes: &["file"],
    parameters: &["path"],
    named: false,
    generic_http: false,
    connect: |address| Box::pin(std::future::ready(connect(&address))),
};

kv_core::register!(REGISTRATION);

/// The files that are open in this program.
static OPEN: LazyLock<Mutex<HashMap<PathBuf, Weak<Store>>>> = LazyLock::new(Mutex::default);

fn connect(address: &Address) -> Result<Arc<dyn Backend>> {
    let path = address.parameter("path").ok_or_else(|| Error::invalid_address("parameter `path` is missing"))?;
    let mut open = lock(&OPEN);
    let store = match open.get(Path::new(path)).and_then(Weak::upgrade) {
        Some(store) => store,
        None => {
            Arc::new(Store { state: Mutex::new(State::open(path).map_err(failed)?), changed: watch::Sender::default() })
        }
    };
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
    file: File,
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
    fn open(path: &str) -> std::io::Result<Self> {
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        // A crash may have cut the last line short; nobody has seen what it says.
        let complete = text.rfind('\n').map_or(0, |end| end + 1);
        file.set_len(complete as u64)?;
        let now = Listing { index: 1, ..Listing::default() };
        let mut state = Self { file, now, compacted: 0, history: VecDeque::new(), leases: HashMap::new() };
        for line in text[..complete].lines() {
            state.show(serde_json::from_str(line)?);
        }
        state.compacted = state.now.index;
        Ok(state)
    }

    /// Writes a line, then lets the change be seen: the only way that anything changes.
    fn apply(&mut self, events: Vec<Event>, line: &[Event]) -> Result<u64> {
        let length = self.file.metadata().map_err(failed)?.len();
        let text = serde_json::to_string(line).map_err(|error| failed(error.into()))? + "\n";
        if let Err(error) = self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_data()) {
            // Half a line must not be continued by the next one.
            let _ = self.file.set_len(length);
            return Err(failed(error));
        }
        self.now.index += 1;
        self.show(events);
        Ok(self.now.index)
    }

    fn show(&mut self, events: Vec<Event>) {
        for event in events {
            self.now.index = event.index;
            match event.event_type {
                EventType::Delete => drop(self.now.values.remove(&event.key)),
                _ => drop(self.now.values.insert(event.key.clone(), Value::new(event.data.clone(), event.index))),
            }
            self.history.push_back(event);
            if self.history.len() > 10_000 {
                self.compacted = self.history.pop_front().map_or(0, |event| event.index);
            }
        }
    }

    /// Changes a key that vanishes with its holder. For whoever opens the file again, it is deleted; what remains of
    /// the change is its index, which is not used again.
    fn apply_leased(&mut self, key: &str, data: Option<Bytes>, is_lock: bool) -> Result<u64> {
        let line = [self.event(key.to_owned(), None)];
        let events = if is_lock { Vec::new() } else { vec![self.event(key.to_owned(), data)] };
        self.apply(events, &line)
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
        let (mut events, mut trees) = (Vec::new(), Vec::new());
        for operation in txn.operations {
            match operation {
                Operation::Set { key, data } => events.push(self.event(key, Some(data))),
                Operation::Delete { key } => {
                    events.extend(self.now.values.contains_key(&key).then(|| self.event(key, None)))
                }
                Operation::DeletePrefix { prefix } => {
                    events.extend(self.below(&prefix).map(|(key, _)| self.event(key.clone(), None)));
                    trees.push(prefix);
                }
            }
        }
        let index = if events.is_empty() { 0 } else { self.apply(events.clone(), &events)? };
        // A lease does not survive its key, and a lock, which lives below its name, not its tree.
        let (values, is_gone) = (&self.now.values, |name: String| trees.iter().any(|tree| name.starts_with(tree)));
        let stands =
            |it: &Leased| if it.is_lock { !is_gone(it.key.clone() + "/") } else { values.contains_key(&it.key) };
        self.leases.retain(|_, leased| stands(leased));
        Ok(sets.then_some(index))
    }

    fn below<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a String, &'a Value)> {
        self.now.values.range(prefix.to_owned()..).take_while(move |(key, _)| key.starts_with(prefix))
    }

    /// Takes a lease on a lock or a new key; `None` if the lock is held. Its token is its number.
    fn grant(&mut self, key: &str, ttl: Duration, is_lock: bool) -> Result<Option<u64>> {
        if !is_lock {
            self.holds(&Check::Index { key: key.to_owned(), index: 0 })?;
        } else if self.leases.values().any(|leased| leased.is_lock && leased.key == key) {
            return Ok(None);
        }
        let token = self.apply_leased(key, Some(Bytes::new()), is_lock)?;
        self.leases.insert(token, Leased { key: key.to_owned(), is_lock, ttl, deadline: Instant::now() + ttl });
        Ok(Some(token))
    }

    fn end(&mut self, token: u64) -> Result<bool> {
        let Some(leased) = self.leases.remove(&token) else { return Ok(false) };
        if !leased.is_lock {
            self.apply_leased(&leased.key, None, false)?;
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
        let since = Moment::now();
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
            let (events, next) = match store.after(&prefix, after?) {
                Ok((events, index)) => (events.into_iter().map(Ok).collect(), Some(index)),
                Err(error) => (vec![Err(error)], None),
            };
            if events.is_empty() {
                changes.changed().await.ok()?;
            }
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
            return drop(store.change(|state| state.end(token)));
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

#[async_trait]
impl Lease for FileLease {
    async fn renew(&self) -> Result<()> {
        let mut state = lock(&self.store.state);
        let leased = state.leases.get_mut(&self.token).ok_or_else(|| Error::Lost { key: self.key.clone() })?;
        leased.deadline = Instant::now() + leased.ttl;
        Ok(())
    }

    async fn set(&self, data: Bytes) -> Result<u64> {
        self.renew().await?;
        self.store.change(|state| state.apply_leased(&self.key, Some(data), false))
    }

    async fn release(&self) -> Result<()> {
        let ended = self.store.change(|state| state.end(self.token))?;
        ended.then_some(()).ok_or_else(|| Error::Lost { key: self.key.clone() })
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
            value_bytes: 1 << 20,
            txn_ops: 64,
            txn_bytes: 4 << 20,
            // Each change waits for the disk, and renewals wait for it.
            min_ttl: Duration::from_secs(1),
            max_ttl: Duration::from_secs(24 * 60 * 60),
            ttl_step: Duration::from_millis(1),
            expiry_lag: ExpiryLag { fixed: Duration::from_secs(1), ttls: 0 },
            watch_history: WatchHistory::Every,
            foreign_write: ForeignWrite::Keeps,
            lock_order: LockOrder::PerHandle,
            member_leave: MemberLeave::KeepsLeases,
        }
    }

    async fn ping(&self) -> Result<()> {
        lock(&self.0.state).file.sync_data().map_err(failed)
    }

    async fn get(&self, key: &str) -> Result<Value> {
        lock(&self.0.state).now.values.get(key).cloned().ok_or_else(|| Error::NotFound { key: key.to_owned() })
    }

    async fn list(&self, prefix: &str) -> Result<Snapshot> {
        let state = lock(&self.0.state);
        let entries = state.below(prefix).map(|(key, value)| (key.clone(), value.clone())).collect();
        Ok(Snapshot { entries, index: state.now.index })
    }

    async fn keys(&self, prefix: &str) -> Result<Vec<String>> {
        let state = lock(&self.0.state);
        let child = |key: &str| key[prefix.len()..].split_inclusive('/').next().map(|name| format!("{prefix}{name}"));
        let mut children: Vec<_> = state.below(prefix).filter_map(|(key, _)| child(key)).collect();
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
