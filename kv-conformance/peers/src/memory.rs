//! The contests in memory, with maps that a program could use instead.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use dashmap::DashMap;
use kv_conformance_program::bench::{Answer, Caller, Failure, OwnKeys};
use kv_core::Kv;
use opendal::{Operator, services};

use crate::contest::{Contender, Contest, Figure};
use crate::load::Load;
use crate::ours;

pub(crate) const STORE: &str = "memory";

/// Calls between two readings of the clock, because a reading takes about as long as a read of a map.
const BURST: u32 = 64;

/// Every contest, on a store where the keys exist.
pub(crate) async fn contests(kv: &Kv, load: &Load) -> Result<Vec<Contest>, Failure> {
    let (tree, map) = (Arc::new(Tree::default()), Arc::new(Map::default()));
    let operator = Operator::new(services::Memory::default())?.finish();
    for key in load.keys.all() {
        tree.set(key, load.value.clone());
        map.set(key, load.value.clone());
        operator.write(key, load.value.clone()).await?;
    }
    let contest = |call, callers, ours, peers| Contest {
        store: STORE,
        call,
        callers,
        burst: BURST,
        figure: Figure::Rate,
        ours,
        peers,
    };
    let mut contests = Vec::new();
    for callers in [1, 2] {
        let own = |load: &Load| {
            let load = load.clone();
            move |caller| load.of(caller, callers)
        };
        let keys = own(load);
        let (tree, map, operator) = (tree.clone(), map.clone(), operator.clone());
        let peers = vec![
            Contender::new("BTreeMap in a RwLock", {
                let (tree, keys) = (tree.clone(), keys.clone());
                move |caller| Get(tree.clone(), keys(caller))
            })
            .target(0.5),
            Contender::new("DashMap", {
                let (map, keys) = (map.clone(), keys.clone());
                move |caller| Get(map.clone(), keys(caller))
            }),
            Contender::new("OpenDAL's memory", {
                let (operator, keys) = (operator.clone(), keys.clone());
                move |caller| Read(operator.clone(), keys(caller))
            }),
        ];
        contests.push(contest("get", callers, ours::get(kv, load, callers), peers));
        let value = load.value.clone();
        let peers = vec![
            Contender::new("BTreeMap in a RwLock", {
                let (keys, value) = (keys.clone(), value.clone());
                move |caller| Set(tree.clone(), keys(caller), value.clone())
            })
            .target(0.3),
            Contender::new("DashMap", {
                let (keys, value) = (keys.clone(), value.clone());
                move |caller| Set(map.clone(), keys(caller), value.clone())
            }),
            Contender::new("OpenDAL's memory", move |caller| Write(operator.clone(), keys(caller), value.clone())),
        ];
        contests.push(contest("set", callers, ours::set(kv, load, callers), peers));
    }
    Ok(contests)
}

/// A value and the index of its write.
type Indexed = (u64, Bytes);

/// A map in this process that gives each write an index.
trait Store: Send + Sync + 'static {
    fn get(&self, key: &str) -> Option<Indexed>;
    fn set(&self, key: &str, value: Bytes) -> u64;
}

#[derive(Default)]
struct Tree(RwLock<(u64, BTreeMap<String, Indexed>)>);

impl Store for Tree {
    fn get(&self, key: &str) -> Option<Indexed> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).1.get(key).cloned()
    }

    fn set(&self, key: &str, value: Bytes) -> u64 {
        let mut inner = self.0.write().unwrap_or_else(PoisonError::into_inner);
        inner.0 += 1;
        let index = inner.0;
        inner.1.insert(key.to_owned(), (index, value));
        index
    }
}

#[derive(Default)]
struct Map(AtomicU64, DashMap<String, Indexed>);

impl Store for Map {
    fn get(&self, key: &str) -> Option<Indexed> {
        self.1.get(key).map(|found| found.clone())
    }

    fn set(&self, key: &str, value: Bytes) -> u64 {
        let index = self.0.fetch_add(1, Ordering::Relaxed) + 1;
        self.1.insert(key.to_owned(), (index, value));
        index
    }
}

struct Get<S>(Arc<S>, OwnKeys);

impl<S: Store> Caller for Get<S> {
    async fn call(&mut self) -> Answer {
        black_box(self.0.get(self.1.next_key()).ok_or("no such key")?);
        Ok(None)
    }
}

struct Set<S>(Arc<S>, OwnKeys, Bytes);

impl<S: Store> Caller for Set<S> {
    async fn call(&mut self) -> Answer {
        black_box(self.0.set(self.1.next_key(), self.2.clone()));
        Ok(None)
    }
}

struct Read(Operator, OwnKeys);

impl Caller for Read {
    async fn call(&mut self) -> Answer {
        black_box(self.0.read(self.1.next_key()).await?);
        Ok(None)
    }
}

struct Write(Operator, OwnKeys, Bytes);

impl Caller for Write {
    async fn call(&mut self) -> Answer {
        black_box(self.0.write(self.1.next_key(), self.2.clone()).await?);
        Ok(None)
    }
}
