//! A store that answers correctly, with no more than etcd's API promises.
//!
//! Each version of etcd puts more into its answers than it has to: leases in the answer to a range with `keys_only`
//! (until 3.6), headers in the parts of a transaction, counts, the ids of the cluster and the member. This store leaves
//! all of that out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use prost::Message as _;
use tokio::sync::broadcast;

use crate::message::{framed, header, number, text};
use crate::request::{Compare, Delete, Grant, OfLease, Operation, Put, Range, Txn, WatchCreate, WatchRequest};
use crate::server::{Act, Call, Mood, Server};

#[derive(Clone)]
struct Entry {
    create: i64,
    modify: i64,
    version: i64,
    value: Vec<u8>,
    lease: i64,
}

/// A change of a key: its new entry, or `None` if it was deleted.
#[derive(Clone)]
struct Change {
    key: Vec<u8>,
    revision: i64,
    entry: Option<Entry>,
}

impl Change {
    /// The event of a watch. That of a deletion has only the key and the revision.
    fn event(&self) -> Vec<u8> {
        let (kind, kv) = match &self.entry {
            Some(entry) => (0, entry.full(&self.key)),
            None => (1, [text(1, &self.key), number(3, self.revision)].concat()),
        };
        text(11, &[number(1, kind), text(2, &kv)].concat())
    }
}

impl Entry {
    fn full(&self, key: &[u8]) -> Vec<u8> {
        [self.key_only(key), text(5, &self.value), number(6, self.lease)].concat()
    }

    fn key_only(&self, key: &[u8]) -> Vec<u8> {
        [text(1, key), number(2, self.create), number(3, self.modify), number(4, self.version)].concat()
    }
}

/// Whether a key is in a range.
fn has(start: &[u8], end: &[u8], key: &[u8]) -> bool {
    match end {
        [] => key == start,
        [0] => key >= start,
        end => key >= start && key < end,
    }
}

struct Store {
    revision: i64,
    entries: BTreeMap<Vec<u8>, Entry>,
    leases: BTreeSet<i64>,
    /// How many leases were granted so far.
    grants: usize,
    history: Vec<Change>,
    changes: broadcast::Sender<Change>,
}

impl Store {
    /// Applies an operation at a revision, and returns its part of the answer to a transaction, without a header.
    fn apply(&mut self, operation: Operation, revision: i64) -> Vec<u8> {
        if let Some(range) = operation.range {
            return text(1, &self.range(&range));
        }
        if let Some(put) = operation.put {
            self.put(put, revision);
            return text(2, &[]);
        }
        if let Some(delete) = operation.delete {
            self.delete(revision, |key, _| has(&delete.key, &delete.end, key));
            return text(3, &[]);
        }
        text(4, &self.txn(*operation.txn.expect("an operation"), revision))
    }

    fn put(&mut self, put: Put, revision: i64) {
        let old = self.entries.get(&put.key);
        let (create, version) = old.map_or((revision, 1), |old| (old.create, old.version + 1));
        let entry = Entry { create, modify: revision, version, value: put.value, lease: put.lease };
        self.entries.insert(put.key.clone(), entry.clone());
        self.changed(Change { key: put.key, revision, entry: Some(entry) });
    }

    fn delete(&mut self, revision: i64, which: impl Fn(&[u8], &Entry) -> bool) {
        let gone: Vec<_> =
            self.entries.iter().filter(|(key, entry)| which(key, entry)).map(|(key, _)| key.clone()).collect();
        for key in gone {
            self.entries.remove(&key);
            self.changed(Change { key, revision, entry: None });
        }
    }

    fn changed(&mut self, change: Change) {
        self.revision = change.revision;
        self.history.push(change.clone());
        let _ = self.changes.send(change);
    }

    /// The entries at a revision.
    fn at(&self, revision: i64) -> BTreeMap<Vec<u8>, Entry> {
        if revision == 0 {
            return self.entries.clone();
        }
        let mut entries = BTreeMap::new();
        for change in self.history.iter().filter(|change| change.revision <= revision) {
            match &change.entry {
                Some(entry) => entries.insert(change.key.clone(), entry.clone()),
                None => entries.remove(&change.key),
            };
        }
        entries
    }

    fn range(&self, range: &Range) -> Vec<u8> {
        let entries = self.at(range.revision);
        let mut found: Vec<_> = entries
            .iter()
            .filter(|(key, entry)| {
                has(&range.key, &range.end, key) && (range.max_create == 0 || entry.create <= range.max_create)
            })
            .collect();
        if range.target == 2 {
            found.sort_by_key(|(_, entry)| entry.create);
        }
        if range.order == 2 {
            found.reverse();
        }
        let limit = usize::try_from(range.limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        let more = found.len() > limit;
        let entries = found
            .into_iter()
            .take(limit)
            .flat_map(|(key, entry)| text(2, &if range.keys_only { entry.key_only(key) } else { entry.full(key) }));
        [entries.collect(), number(3, more.into())].concat()
    }

    fn txn(&mut self, txn: Txn, revision: i64) -> Vec<u8> {
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
        let parts = if succeeded { txn.success } else { txn.failure };
        let answers: Vec<u8> = parts.into_iter().flat_map(|part| text(3, &self.apply(part, revision))).collect();
        [number(2, succeeded.into()), answers].concat()
    }

    fn holds(&self, compare: &Compare) -> bool {
        let equals = |entry: Option<&Entry>| {
            compare.create.is_none_or(|create| create == entry.map_or(0, |entry| entry.create))
                && compare.modify.is_none_or(|modify| modify == entry.map_or(0, |entry| entry.modify))
                && compare.lease.is_none_or(|lease| lease == entry.map_or(0, |entry| entry.lease))
        };
        if compare.end.is_empty() {
            return equals(self.entries.get(&compare.key));
        }
        self.entries
            .iter()
            .filter(|(key, _)| has(&compare.key, &compare.end, key))
            .all(|(_, entry)| equals(Some(entry)))
    }
}

/// The store, shared by all calls.
#[derive(Clone)]
pub(crate) struct Minimal(Arc<Mutex<Store>>);

impl Minimal {
    pub(crate) fn new() -> Self {
        let store = Store {
            revision: 1,
            entries: BTreeMap::new(),
            leases: BTreeSet::new(),
            grants: 0,
            history: Vec::new(),
            changes: broadcast::channel(1024).0,
        };
        Self(Arc::new(Mutex::new(store)))
    }

    /// An empty store, and a server that serves it.
    pub(crate) async fn start() -> (Server, Self) {
        let (server, store) = (Server::start().await, Self::new());
        server.turn(store.mood());
        (server, store)
    }

    pub(crate) fn mood(&self) -> Mood {
        let this = self.clone();
        Mood::Call(Arc::new(move |call| this.clone().serve(call)))
    }

    /// The keys that begin with `prefix`.
    pub(crate) fn keys(&self, prefix: &str) -> Vec<String> {
        let store = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let keys = store.entries.keys().filter(|key| key.starts_with(prefix.as_bytes()));
        keys.map(|key| String::from_utf8_lossy(key).into_owned()).collect()
    }

    /// How many leases there are.
    pub(crate) fn leases(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).leases.len()
    }

    /// How many leases were granted so far.
    pub(crate) fn grants(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).grants
    }

    pub(crate) fn serve(self, mut call: Call) -> Act {
        Box::pin(async move {
            match call.method() {
                "Watch" => self.watch(call).await,
                "LeaseKeepAlive" => self.keep_alive(call).await,
                _ => {
                    // The client gave up the call before the request was complete.
                    let Some(request) = call.message().await else { return };
                    let answer = self.answer(call.method(), &request);
                    let mut stream = call.begin();
                    match answer {
                        Some(answer) => {
                            stream.send(framed(&answer)).await;
                            stream.finish(0, "");
                        }
                        None => stream.finish(5, "etcdserver: requested lease not found"),
                    }
                }
            }
        })
    }

    /// The answer to a unary call; `None` for a lease that does not exist.
    fn answer(&self, method: &str, request: &[u8]) -> Option<Vec<u8>> {
        let mut store = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let next = store.revision + 1;
        let body = match method {
            "Status" => return Some(number(4, 1)),
            "LeaseGrant" => {
                let grant = Grant::decode(request).expect("a grant");
                store.leases.insert(grant.id);
                store.grants += 1;
                return Some([number(2, grant.id), number(3, grant.ttl)].concat());
            }
            "LeaseRevoke" => {
                let id = OfLease::decode(request).expect("a lease").id;
                store.delete(next, |_, entry| entry.lease == id);
                return store.leases.remove(&id).then(Vec::new);
            }
            "Range" => store.range(&Range::decode(request).expect("a range")),
            "Put" => {
                store.put(Put::decode(request).expect("a put"), next);
                Vec::new()
            }
            "DeleteRange" => {
                let delete = Delete::decode(request).expect("a deletion");
                store.delete(next, |key, _| has(&delete.key, &delete.end, key));
                Vec::new()
            }
            "Txn" => store.txn(Txn::decode(request).expect("a transaction"), next),
            other => panic!("{other} is not served"),
        };
        Some([header(store.revision), body].concat())
    }

    async fn keep_alive(self, mut call: Call) {
        let mut answer = call.begin();
        while let Some(request) = call.message().await {
            let id = OfLease::decode(&*request).expect("a lease").id;
            let lives = self.0.lock().unwrap_or_else(PoisonError::into_inner).leases.contains(&id);
            // A time to live of 0 is left out, like any default value.
            let ttl = if lives { number(3, 10) } else { Vec::new() };
            answer.send(framed(&[number(2, id), ttl].concat())).await;
        }
    }

    async fn watch(self, mut call: Call) {
        let mut answer = call.begin();
        let mut watches: Vec<WatchCreate> = Vec::new();
        let mut changes = self.0.lock().unwrap_or_else(PoisonError::into_inner).changes.subscribe();
        loop {
            tokio::select! {
                request = call.message() => {
                    let Some(request) = request else { return };
                    let Some(mut create) = WatchRequest::decode(&*request).expect("a request").create else { continue };
                    if create.start == 0 {
                        create.start = self.0.lock().unwrap_or_else(PoisonError::into_inner).revision + 1;
                    }
                    answer.send(framed(&[number(2, create.id), number(3, 1)].concat())).await;
                    let past = self.past(&create);
                    if !past.is_empty() {
                        answer.send(framed(&[number(2, create.id), past].concat())).await;
                    }
                    watches.push(create);
                }
                change = changes.recv() => {
                    let Ok(change) = change else { return };
                    for watch in &watches {
                        if change.revision >= watch.start && has(&watch.key, &watch.end, &change.key) {
                            answer.send(framed(&[number(2, watch.id), change.event()].concat())).await;
                        }
                    }
                }
            }
        }
    }

    /// The past events that a watch begins with. Some may also be in the channel and are sent twice, as etcd may do.
    fn past(&self, watch: &WatchCreate) -> Vec<u8> {
        let store = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let past = store.history.iter().filter(|change| change.revision >= watch.start.max(1));
        past.filter(|change| has(&watch.key, &watch.end, &change.key)).flat_map(Change::event).collect()
    }
}
