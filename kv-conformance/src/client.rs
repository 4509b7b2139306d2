//! A client as a case uses it: the verbs of [`Kv`], each call noted in the log of the case.

use std::fmt::Debug;
use std::time::Duration;

use bytes::Bytes;
use kv_core::{EphemeralKey, Event, EventType, Kv, Listing, Lock, Result, TxnBuilder, Value, Watch};

use crate::log::{Log, shortened};
use crate::outcome::{Broke, Outcome, check};

/// A [`Kv`] whose calls are noted.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    kv: Kv,
    name: String,
    log: Log,
    patience: Duration,
}

impl Client {
    pub(crate) fn new(kv: Kv, name: String, log: Log, patience: Duration) -> Self {
        Self { kv, name, log, patience }
    }

    /// The handle itself, for calls that are not to be noted.
    pub(crate) fn kv(&self) -> &Kv {
        &self.kv
    }

    /// Notes the call of anything else, such as of a lock that this client holds.
    pub(crate) async fn call<T: Debug>(&self, what: &str, future: impl Future<Output = Result<T>>) -> Result<T> {
        self.log.call(format!("{}: {what}", self.name), future).await
    }

    pub(crate) fn scoped(&self, directory: &str) -> Result<Self> {
        let kv = self.kv.scoped(directory)?;
        Ok(Self { kv, name: format!("{} in {directory:?}", self.name), ..self.clone() })
    }

    pub(crate) async fn get(&self, key: &str) -> Result<Value> {
        self.call(&format!("get {key:?}"), self.kv.get(key)).await
    }

    pub(crate) async fn get_all(&self, prefix: &str) -> Result<Listing> {
        self.call(&format!("get_all {prefix:?}"), self.kv.get_all(prefix)).await
    }

    pub(crate) async fn keys(&self, directory: &str) -> Result<Vec<String>> {
        self.call(&format!("keys {directory:?}"), self.kv.keys(directory)).await
    }

    pub(crate) async fn set(&self, key: &str, data: impl Into<Bytes>) -> Result<u64> {
        let data = data.into();
        let what = shortened(format_args!("set {key:?} to {data:?}"));
        self.call(&what, self.kv.set(key, data)).await
    }

    pub(crate) async fn delete(&self, key: &str) -> Result<()> {
        self.call(&format!("delete {key:?}"), self.kv.delete(key)).await
    }

    pub(crate) async fn delete_tree(&self, directory: &str) -> Result<()> {
        self.call(&format!("delete_tree {directory:?}"), self.kv.delete_tree(directory)).await
    }

    pub(crate) async fn update(&self, key: &str, data: impl Into<Bytes>, index: u64) -> Result<u64> {
        let data = data.into();
        let what = shortened(format_args!("update {key:?} at index {index} to {data:?}"));
        self.call(&what, self.kv.update(key, Value::new(data, index))).await
    }

    pub(crate) async fn remove(&self, key: &str, index: u64) -> Result<()> {
        self.call(&format!("remove {key:?} at index {index}"), self.kv.remove(key, index)).await
    }

    pub(crate) async fn commit(&self, transaction: TxnBuilder) -> Result<Option<u64>> {
        let what = shortened(format_args!("commit {transaction:?}"));
        self.call(&what, transaction.commit()).await
    }

    pub(crate) async fn watch(&self, prefix: &str, after: u64) -> Result<Events> {
        let watch = self.call(&format!("watch {prefix:?} after {after}"), self.kv.watch(prefix, after)).await?;
        Ok(Events { watch, client: self.clone() })
    }

    pub(crate) async fn observe(&self, prefix: &str) -> Result<(Listing, Events)> {
        let (listing, watch) = self.call(&format!("observe {prefix:?}"), self.kv.observe(prefix)).await?;
        Ok((listing, Events { watch, client: self.clone() }))
    }

    pub(crate) async fn ephemeral_key(&self, key: &str, ttl: Duration) -> Result<EphemeralKey> {
        self.call(&format!("ephemeral_key {key:?} for {ttl:?}"), self.kv.ephemeral_key(key, ttl)).await
    }

    pub(crate) async fn lock(&self, key: &str, ttl: Duration) -> Result<Lock> {
        self.call(&format!("lock {key:?} for {ttl:?}"), self.kv.lock(key, ttl)).await
    }

    pub(crate) async fn try_lock(&self, key: &str, ttl: Duration) -> Result<Option<Lock>> {
        self.call(&format!("try_lock {key:?} for {ttl:?}"), self.kv.try_lock(key, ttl)).await
    }
}

/// A [`Watch`] whose events are noted, and waited for within bounds.
#[derive(Debug)]
pub(crate) struct Events {
    watch: Watch,
    client: Client,
}

impl Events {
    /// The next event; the clause is broken if none comes.
    pub(crate) async fn next(&mut self, clause: &'static str) -> Outcome<Event> {
        self.next_within(clause, self.client.patience).await
    }

    /// The next event, for which there is a reason to wait longer.
    pub(crate) async fn next_within(&mut self, clause: &'static str, limit: Duration) -> Outcome<Event> {
        match self.item(limit).await {
            Some(Some(Ok(event))) => Ok(event),
            Some(Some(Err(error))) => Err(Broke::new(clause, format!("the watch ended: {error}"))),
            Some(None) => Err(Broke::new("E4", "the watch ended without an error")),
            None => Err(Broke::new(clause, format!("no event within {limit:?}"))),
        }
    }

    /// What the stream gives next, or `None` after a while.
    pub(crate) async fn item(&mut self, limit: Duration) -> Option<Option<Result<Event>>> {
        let item = tokio::time::timeout(limit, self.watch.next()).await.ok();
        self.client.log.note(match &item {
            Some(Some(Ok(event))) => format!("{}: saw {}", self.client.name, shown(event)),
            Some(Some(Err(error))) => format!("{}: the watch ended: {error}", self.client.name),
            Some(None) => format!("{}: the watch ended", self.client.name),
            None => format!("{}: saw nothing for {limit:?}", self.client.name),
        });
        item
    }

    /// The next event must be just this one.
    pub(crate) async fn expect(&mut self, event_type: EventType, key: &str, data: &str, index: u64) -> Outcome {
        let event = self.next("E1").await?;
        let expected = Event { key: key.into(), event_type, data: Bytes::copy_from_slice(data.as_bytes()), index };
        if event == expected {
            return Ok(());
        }
        let what = format!("expected {}, saw {}", shown(&expected), shown(&event));
        // What was done is the promise of E2; which of it is seen at all is that of E1.
        let clause = if event.key == expected.key && event.index == expected.index { "E2" } else { "E1" };
        Err(Broke::new(clause, what))
    }

    /// The next event must be the deletion of this key; returns its index.
    pub(crate) async fn expect_deletion(&mut self, key: &str, before: u64) -> Outcome<u64> {
        let event = self.next("E1").await?;
        is_deletion(&event, key, before)?;
        Ok(event.index)
    }
}

/// The event must be the deletion of `key`, which was written at index `before`.
pub(crate) fn is_deletion(event: &Event, key: &str, before: u64) -> Outcome {
    let is_deletion = event.event_type == EventType::Delete && event.key == key;
    let clause = if event.key == key { "E2" } else { "E1" };
    check!(clause, is_deletion, "expected the deletion of {key:?}, saw {}", shown(event));
    check!("E2", event.data.is_empty(), "a deletion carries data: {}", shown(event));
    let later = event.index > before;
    check!("E2", later, "a deletion of what was written at {before}: {}", shown(event));
    Ok(())
}

fn shown(event: &Event) -> String {
    let data = shortened(format_args!("{:?}", event.data));
    format!("{} of {:?} at index {} with {data}", event.event_type, event.key, event.index)
}
