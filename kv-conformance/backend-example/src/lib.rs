//! A store in one file, to which every change is a line of JSON: small enough to be read in one sitting, and real.
//!
//! `file:///root?path=PATH`. Handles within one program share the file; programs may not. Opening it again brings
//! everything back but what lived on leases, whose holders are gone.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use kv_core::backend::{Address, Backend, Check, EventStream, Grant, Guard, Lease, Operation, Snapshot, Txn};
use kv_core::clock::Moment;
use kv_core::{
    Error, Event, EventType, ExpiryLag, ForeignWrite, Limits, Listing, LockOrder, Registration, Result, Value,
};
use tokio::{sync::watch, time::timeout};

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
static OPEN: Mutex<BTreeMap<String, Weak<Mutex<State>>>> = Mutex::new(BTreeMap::new());

/// How often whoever waits looks whether a lease has lapsed: no task keeps the time.
const TICK: Duration = Duration::from_millis(100);

fn connect(address: &Address) -> Result<Arc<dyn Backend>> {
    let path = address.parameter("path").ok_or_else(|| Error::invalid_address("parameter `path` is missing"))?;
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    let opened = || Ok(Arc::new(Mutex::new(State::open(path).map_err(failed)?)));
    let store = open.get(path).and_then(Weak::upgrade).map_or_else(opened, Result::Ok)?;
    open.insert(path.to_owned(), Arc::downgrade(&store));
    Ok(Arc::new(FileBackend(store)))
}

fn failed(error: std::io::Error) -> Error {
    Error::unavailable(format!("the file cannot be read or written: {error}"))
}

/// The store that the handles of one file share.
#[derive(Clone)]
struct FileBackend(Arc<Mutex<State>>);

struct State {
    file: File,
    now: Listing,
    /// The last commits by their indices, and the index after which they are complete.
    history: VecDeque<(u64, Vec<Event>)>,
    compacted: u64,
    /// Wakes watches and those who wait for a lock.
    changed: watch::Sender<()>,
    /// In the order in which they were asked for: the first on a lock holds it, the others wait.
    leases: BTreeMap<u64, Leased>,
}

struct Leased {
    key: String,
    is_lock: bool,
    ttl: Duration,
    since: Moment,
    /// The index at which it was granted; 0 while it waits.
    token: u64,
}

impl State {
    fn open(path: &str) -> std::io::Result<Self> {
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        // A crash may have cut the last line short; nobody has seen what it says.
        let complete = text.rfind('\n').map_or(0, |end| end + 1);
        file.set_len(complete as u64)?;
        let (history, compacted, changed, leases) = <_>::default();
        let mut state = Self { file, now: Listing { index: 1, ..<_>::default() }, history, compacted, changed, leases };
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
        self.changed.send_replace(());
        Ok(self.now.index)
    }

    fn show(&mut self, events: Vec<Event>) {
        for event in &events {
            self.now.index = event.index;
            match event.event_type {
                EventType::Delete => drop(self.now.values.remove(&event.key)),
                _ => drop(self.now.values.insert(event.key.clone(), Value::new(event.data.clone(), event.index))),
            }
        }
        self.history.push_back((self.now.index, events));
        // Whole commits: a watch that keeps up is not ended by one of any size.
        if self.history.len() > 10_000 {
            self.compacted = self.history.pop_front().map_or(0, |(index, _)| index);
        }
    }

    /// Changes a key that vanishes with its holder. For whoever opens the file again, it is deleted; what remains of
    /// the change is its index, which is not used again.
    fn apply_leased(&mut self, key: &str, data: Option<Bytes>) -> Result<u64> {
        self.apply(vec![self.event(key.to_owned(), data)], &[self.event(key.to_owned(), None)])
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
        let index_of = |key: &String| self.now.values.get(key).map_or(0, |value| value.index);
        match check {
            Check::Index { key, index } if index_of(key) != *index => Err(Error::conflict(key, *index)),
            Check::Held(it) if self.token(&it.owner) != Some(it.token) => Err(Error::Lost { key: it.key.clone() }),
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
                Operation::Delete { key } if !self.now.values.contains_key(&key) => {}
                Operation::Delete { key } => events.push(self.event(key, None)),
                Operation::DeletePrefix { prefix } => {
                    events.extend(self.below(&prefix).map(|(key, _)| self.event(key.clone(), None)));
                    trees.push(prefix);
                }
            }
        }
        let index = if events.is_empty() { 0 } else { self.apply(events.clone(), &events)? };
        // A lease does not survive its key, and a lock, which lives below its name, not its tree.
        let is_gone = |key: &str| trees.iter().any(|tree| format!("{key}/").starts_with(tree));
        let stands = |it: &Leased| it.is_lock || self.now.values.contains_key(&it.key);
        self.leases.retain(|_, it| (it.token == 0 || !is_gone(&it.key)) && stands(it));
        Ok(sets.then_some(index))
    }

    fn below<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a String, &'a Value)> {
        self.now.values.range(prefix.to_owned()..).take_while(move |(key, _)| key.starts_with(prefix))
    }

    /// Asks for a lease: one on a new key is granted at once, one on a lock when it is the first on it.
    fn ask(&mut self, key: &str, ttl: Duration, is_lock: bool) -> Result<u64> {
        // No lease of another store has this number: it tells whose lock guards a write.
        static LAST: AtomicU64 = AtomicU64::new(0);
        let new = Check::Index { key: key.to_owned(), index: 0 };
        let create = |state: &mut Self| state.holds(&new).and_then(|()| state.apply_leased(key, Some("".into())));
        let token = if is_lock { 0 } else { create(self)? };
        let id = LAST.fetch_add(1, Ordering::Relaxed) + 1;
        self.leases.insert(id, Leased { key: key.to_owned(), is_lock, ttl, since: Moment::now(), token });
        Ok(id)
    }

    fn token(&self, owner: &str) -> Option<u64> {
        self.leases.get(&owner.parse().ok()?).map(|it| it.token)
    }

    fn end(&mut self, id: u64) -> Result<bool> {
        let key = self.leases.get(&id).filter(|it| !it.is_lock).map(|it| it.key.clone());
        key.map(|key| self.apply_leased(&key, None)).transpose()?;
        Ok(self.leases.remove(&id).is_some())
    }

    /// Ends the leases that have lapsed, and grants each free lock to whoever has waited longest.
    fn keep_time(&mut self) -> Result<()> {
        let mut locks = HashSet::new();
        for id in self.leases.keys().copied().collect::<Vec<_>>() {
            let leased = &self.leases[&id];
            let (key, is_granted) = (leased.key.clone(), leased.token != 0);
            if is_granted && leased.since.elapsed() >= leased.ttl {
                self.end(id)?;
            } else if leased.is_lock && locks.insert(key.clone()) && !is_granted {
                let token = self.apply(Vec::new(), &[self.event(key, None)])?;
                self.leases.entry(id).and_modify(|it| (it.token, it.since) = (token, Moment::now()));
            }
        }
        Ok(())
    }
}

impl FileBackend {
    /// Reads or changes the state as of now. No task keeps the time: whoever comes here does.
    fn with<T>(&self, act: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let result = state.keep_time().and_then(|()| act(&mut state));
        // What the file does not take now is tried again by whoever comes next.
        let _ = state.keep_time();
        result
    }

    /// The events with an index above `after`, and the index that they reach up to.
    fn after(&self, prefix: &str, after: u64) -> Result<(Vec<Event>, u64)> {
        self.with(|state| {
            if after < state.compacted {
                return Err(Error::Compacted { after, oldest: Some(state.compacted) });
            }
            let begin = state.history.partition_point(|(index, _)| *index <= after);
            let events = state.history.range(begin..).flat_map(|it| &it.1).filter(|it| it.key.starts_with(prefix));
            Ok((events.cloned().collect(), after.max(state.now.index)))
        })
    }

    /// Takes a lease, or queues for one.
    async fn take(&self, key: &str, ttl: Duration, is_lock: bool) -> Result<Grant> {
        let mut changes = self.with(|state| Ok(state.changed.subscribe()))?;
        loop {
            let id = self.with(|state| state.ask(key, ttl, is_lock))?;
            // From here on, dropping this future leaves the queue or frees the lock.
            let lease = FileLease { store: self.clone(), key: key.to_owned(), id };
            // One that was granted and lapsed before anybody looked is gone, and another one is asked for.
            while let Some((since, token)) =
                self.with(|state| Ok(state.leases.get(&id).map(|it| (it.since, it.token))))?
            {
                if token != 0 {
                    let guard = Guard { key: key.to_owned(), owner: id.to_string(), token };
                    return Ok(Grant { lease: Box::new(lease), ttl, since, guard });
                }
                let _ = timeout(TICK, changes.changed()).await;
            }
        }
    }
}

/// A lease, or a place in the queue for a lock. Dropping it gives it back.
struct FileLease {
    store: FileBackend,
    key: String,
    id: u64,
}

#[async_trait]
impl Lease for FileLease {
    async fn renew(&self) -> Result<()> {
        let renewed = self.store.with(|state| Ok(state.leases.get_mut(&self.id).map(|it| it.since = Moment::now())))?;
        renewed.ok_or_else(|| Error::Lost { key: self.key.clone() })
    }

    async fn set(&self, data: Bytes) -> Result<u64> {
        self.renew().await?;
        self.store.with(|state| state.apply_leased(&self.key, Some(data)))
    }

    async fn release(&self) -> Result<()> {
        self.store.with(|state| state.end(self.id))?.then_some(()).ok_or_else(|| Error::Lost { key: self.key.clone() })
    }

    fn is_given_back_on_drop(&self) -> bool {
        true
    }
}

impl Drop for FileLease {
    fn drop(&mut self) {
        let _ = self.store.with(|state| state.end(self.id));
    }
}

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
            watch_history: kv_core::WatchHistory::Every,
            foreign_write: ForeignWrite::Keeps,
            lock_order: LockOrder::Asked,
            member_leave: kv_core::MemberLeave::KeepsLeases,
        }
    }

    async fn ping(&self) -> Result<()> {
        self.with(|state| state.file.sync_data().map_err(failed))
    }

    async fn get(&self, key: &str) -> Result<Value> {
        self.with(|state| state.now.values.get(key).cloned().ok_or_else(|| Error::NotFound { key: key.to_owned() }))
    }

    async fn list(&self, prefix: &str) -> Result<Snapshot> {
        self.with(|state| {
            let entries = state.below(prefix).map(|(key, value)| (key.clone(), value.clone())).collect();
            Ok(Snapshot { entries, index: state.now.index })
        })
    }

    async fn keys(&self, prefix: &str) -> Result<Vec<String>> {
        let child = |key: &str| key[prefix.len()..].split_inclusive('/').next().map(|name| format!("{prefix}{name}"));
        let mut children: Vec<_> = self.with(|state| Ok(state.below(prefix).filter_map(|it| child(it.0)).collect()))?;
        children.dedup();
        Ok(children)
    }

    async fn commit(&self, txn: Txn) -> Result<Option<u64>> {
        self.with(|state| state.commit(txn))
    }

    async fn watch(&self, prefix: &str, after: u64) -> Result<EventStream> {
        let changes = self.with(|state| Ok(state.changed.subscribe()))?;
        let after = if after == 0 { self.with(|state| Ok(state.now.index))? } else { after };
        self.after(prefix, after)?;
        let watch = (self.clone(), changes, prefix.to_owned(), after);
        let batches = stream::try_unfold(watch, |(store, mut changes, prefix, after)| async move {
            let (events, next) = store.after(&prefix, after)?;
            if events.is_empty() {
                let _ = timeout(TICK, changes.changed()).await;
            }
            Ok(Some((stream::iter(events.into_iter().map(Ok)), (store, changes, prefix, next))))
        });
        Ok(batches.try_flatten().boxed())
    }

    async fn observe(&self, prefix: &str) -> Result<(Snapshot, EventStream)> {
        let snapshot = self.list(prefix).await?;
        Ok((snapshot.clone(), self.watch(prefix, snapshot.index).await?))
    }

    async fn ephemeral_key(&self, key: &str, ttl: Duration) -> Result<Grant> {
        self.take(key, ttl, false).await
    }

    async fn lock(&self, key: &str, ttl: Duration) -> Result<Grant> {
        self.take(key, ttl, true).await
    }

    async fn try_lock(&self, key: &str, ttl: Duration) -> Result<Option<Grant>> {
        // A lock that is free is granted before the first wait, and one that is not is not waited for.
        self.lock(key, ttl).now_or_never().transpose()
    }
}
