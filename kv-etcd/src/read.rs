//! Reads: one key, a snapshot, a directory.
//!
//! All of them leave out the entries of locks ([clause L10](kv_core::contract::CLAUSES#L10)).

mod children;
pub(crate) mod entries;
pub(crate) mod paging;
mod snapshot;

use std::sync::Arc;

use bytes::Bytes;
use kv_core::backend::Snapshot;
use kv_core::backend::call::Call;
use kv_core::backend::fate::Idempotence;
use kv_core::{Error, Result, Value};

use crate::api::lock_entry::is_lock_entry;
use crate::api::messages::{KeyValue, RangeRequest, Request, RequestOp, Response};
use crate::api::range::{Range, index, revision};
use crate::batch::{Batcher, Job, LARGEST};
use crate::error::Failed;
use crate::large_keys::LargeKeys;
use crate::read::paging::Pager;
use crate::transport::client::Client;

/// Reads, from any runtime.
pub(crate) struct Reader {
    client: Arc<Client>,
    /// Reads of single keys.
    reads: Batcher<Get>,
    large: Arc<LargeKeys>,
    pager: Arc<Pager>,
}

impl Reader {
    pub(crate) fn new(client: &Arc<Client>, pager: &Arc<Pager>, large: &Arc<LargeKeys>) -> Self {
        Self {
            client: Arc::clone(client),
            reads: Batcher::new(client),
            large: Arc::clone(large),
            pager: Arc::clone(pager),
        }
    }

    pub(crate) async fn get(&self, key: &str) -> Result<Value> {
        let was_large = self.large.contains(key.as_bytes());
        let job = Get { key: Range::key(key).key, serializable: self.client.config.serializable, was_large };
        let found = self.reads.submit(job).await?;
        let is_large = found.as_ref().is_some_and(|kv| kv.value.len() > LARGEST);
        if is_large != was_large {
            self.large.note(key.as_bytes(), is_large);
        }
        let found = found.filter(|kv| !is_lock_entry(&kv.key, kv.lease));
        found.map(value).ok_or_else(|| Error::NotFound { key: key.to_owned() })
    }

    /// The cluster's current revision, by a read that needs no permission beyond that for `range`.
    pub(crate) async fn present(&self, range: &Range) -> Result<u64> {
        // Linearizable, whatever the address asks for: a stale read would return an older revision.
        let request = RangeRequest { key: range.key.clone(), keys_only: true, ..RangeRequest::default() };
        let answer = self.client.call(request).await?;
        Ok(revision(answer.header.as_ref())?)
    }

    pub(crate) async fn list(&self, prefix: &str) -> Result<Snapshot> {
        Ok(snapshot::list(&self.pager, prefix).await?)
    }

    /// The children of a directory; `prefix` is empty or ends in `/`.
    pub(crate) async fn keys(&self, prefix: &str) -> Result<Vec<String>> {
        Ok(children::keys(&self.pager, prefix).await?)
    }
}

/// A read of one key. It may travel with others.
#[derive(Clone)]
pub(crate) struct Get {
    key: Bytes,
    serializable: bool,
    /// Whether the value was large when it was last read.
    was_large: bool,
}

impl Get {
    fn request(self) -> RangeRequest {
        RangeRequest { key: self.key, serializable: self.serializable, ..RangeRequest::default() }
    }
}

impl Job for Get {
    type Answer = Option<KeyValue>;
    const IDEMPOTENCE: Idempotence = Idempotence::Repeatable;

    fn window(_operations: usize) -> usize {
        3
    }

    fn key(&self) -> &Bytes {
        &self.key
    }

    /// Counts the expected answer, too: in one transaction, a small value arrives only with the large ones.
    fn bytes(&self) -> usize {
        if self.was_large { LARGEST + 1 } else { self.key.len() }
    }

    async fn alone(self, client: &Client, caller: &[Call]) -> Result<Self::Answer, Failed> {
        Ok(client.call_for(caller, self.size(), self.request()).await?.kvs.into_iter().next())
    }

    fn part(self) -> RequestOp {
        Request::Range(self.request()).into()
    }

    fn answer(part: Option<Response>, _revision: u64) -> Option<Self::Answer> {
        match part? {
            Response::Range(range) => Some(range.kvs.into_iter().next().map(copied)),
            _ => None,
        }
    }
}

/// A copy of an entry from an answer with several, so that it does not keep the memory of all of them.
fn copied(kv: KeyValue) -> KeyValue {
    KeyValue { value: Bytes::copy_from_slice(&kv.value), ..kv }
}

fn value(kv: KeyValue) -> Value {
    Value { index: index(kv.mod_revision), data: kv.value }
}
