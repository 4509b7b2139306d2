//! Reading: one key, a snapshot, a directory.

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use kv_core::backend::Snapshot;
use kv_core::backend::call::Call;
use kv_core::backend::fate::Idempotence;
use kv_core::{Error, Result, Value};

use crate::api::messages::{KeyValue, List, RangeRequest, Request, RequestOp, Response};
use crate::api::page::{Entry, Malformed, Page};
use crate::api::range::{Keys, Range, after_prefix, index, revision, signed};
use crate::batch::{Batcher, Job, LARGEST};
use crate::error::Failed;
use crate::large_keys::LargeKeys;
use crate::transport::client::{Client, Volume};

/// How many entries the first page of a snapshot asks for: most snapshots fit into it.
const FIRST_PAGE: i64 = 10_000;
/// How large the later pages are to be, in bytes, as far as the entries before let one guess.
const PAGE_BYTES: usize = 8 << 20;
/// How many keys the first page of a directory has, and how many a later one at most.
///
/// Pages grow because etcd counts the rest of the range for each of them.
const FIRST_KEYS: i64 = 1_000;
const MOST_KEYS: i64 = 50_000;
/// The most that one listing may take, in bytes, so that no server can fill the memory.
const LISTING: usize = 1 << 30;

/// Reading, on whatever runtime the caller is.
pub(crate) struct Reader {
    client: Arc<Client>,
    /// Reads of single keys.
    reads: Batcher<Get>,
    large: Arc<LargeKeys>,
    /// The keys at which large pages of listings begin.
    large_pages: LargeKeys,
}

impl Reader {
    pub(crate) fn new(client: &Arc<Client>, large: &Arc<LargeKeys>) -> Self {
        Self {
            client: Arc::clone(client),
            reads: Batcher::new(client),
            large: Arc::clone(large),
            large_pages: LargeKeys::default(),
        }
    }

    /// A page of a listing as it came, linearizable unless the address asks for less.
    async fn page(&self, mut request: RangeRequest) -> Result<Bytes, Failed> {
        request.serializable = self.client.config.serializable;
        // Later pages are as large as the first one.
        let (key, was_large) = (request.key.clone(), self.large_pages.contains(&request.key) || request.revision != 0);
        let size = if was_large { Volume::Large } else { Volume::Small };
        let caller = Call::current();
        let page = self.client.call_for(std::slice::from_ref(&caller), size, List(request)).await?.0;
        if (page.len() > LARGEST) != was_large {
            self.large_pages.note(&key, page.len() > LARGEST);
        }
        Ok(page)
    }

    pub(crate) async fn get(&self, key: &str) -> Result<Value> {
        let was_large = self.large.contains(key.as_bytes());
        let job = Get { key: Range::key(key).key, serializable: self.client.config.serializable, was_large };
        let found = self.reads.submit(job).await?;
        let is_large = found.as_ref().is_some_and(|kv| kv.value.len() > LARGEST);
        if is_large != was_large {
            self.large.note(key.as_bytes(), is_large);
        }
        found.map(value).ok_or_else(|| Error::NotFound { key: key.to_owned() })
    }

    /// The cluster's present point in history, as one who may read `range` may ask for it.
    pub(crate) async fn present(&self, range: &Range) -> Result<u64> {
        // Never a weaker read: what is already past must not count as the present.
        let request = RangeRequest { key: range.key.clone(), keys_only: true, ..RangeRequest::default() };
        let answer = self.client.call(request).await?;
        Ok(revision(answer.header.as_ref())?)
    }

    pub(crate) async fn list(&self, prefix: &str) -> Result<Snapshot> {
        loop {
            match self.try_list(prefix).await {
                // The revision went away between two pages; there is a newer one to read.
                Err(failed) if failed.is_compacted() => tracing::debug!("a snapshot was compacted while it was read"),
                result => return Ok(result?),
            }
        }
    }

    async fn try_list(&self, prefix: &str) -> Result<Snapshot, Failed> {
        let (mut entries, mut keys) = (Vec::new(), Keys::default());
        let (mut size, mut limit) = (Size::default(), FIRST_PAGE);
        let mut request = Range::prefix(prefix).request();
        loop {
            request.limit = limit;
            let message = match self.page(request.clone()).await {
                Err(failed) if failed.is_too_large() && limit > 1 => {
                    limit = (limit / 8).max(1);
                    continue;
                }
                result => result?,
            };
            let mut last = None;
            let page = Page::read(&message, |entry| {
                last = Some(entry.key);
                size.add(&entry);
                if let Some(key) = keys.text(entry.key) {
                    let value = Value { data: message.slice_ref(entry.value), index: index(entry.mod_revision) };
                    entries.push((key.to_owned(), value));
                }
                check_size(size.bytes + entries.len() * size_of::<(String, Value)>())
            })?;
            let at = if request.revision == 0 { revision(page.header.as_ref())? } else { index(request.revision) };
            let Some(last) = last.filter(|_| page.more) else {
                keys.done();
                return Ok(Snapshot { entries, index: at });
            };
            goes_on(&request, last)?;
            limit = size.next_page();
            request.key = next_key(last);
            // Every page is from the first one's point in history.
            request.revision = signed(at);
        }
    }

    /// The children of a directory; `prefix` is empty or ends in `/`.
    ///
    /// From page to page, what is left below a child is skipped.
    pub(crate) async fn keys(&self, prefix: &str) -> Result<Vec<String>> {
        loop {
            match self.try_keys(prefix).await {
                Err(failed) if failed.is_compacted() => tracing::debug!("a listing was compacted while it was read"),
                result => return Ok(result?),
            }
        }
    }

    async fn try_keys(&self, prefix: &str) -> Result<Vec<String>, Failed> {
        let (mut children, mut keys) = (Vec::<String>::new(), Keys::default());
        let mut bytes = 0;
        let mut request = Range::prefix(prefix).request();
        request.keys_only = true;
        request.limit = FIRST_KEYS;
        loop {
            let message = match self.page(request.clone()).await {
                Err(failed) if failed.is_too_large() && request.limit > 1 => {
                    request.limit = (request.limit / 8).max(1);
                    continue;
                }
                result => result?,
            };
            let mut last = None;
            let page = Page::read(&message, |entry| {
                last = Some(entry.key);
                let Some(key) = keys.text(entry.key).filter(|key| key.starts_with(prefix)) else { return Ok(()) };
                let child = child(key, prefix.len());
                if children.last().is_none_or(|last| last != child) {
                    bytes += child.len() + size_of::<String>();
                    children.push(child.to_owned());
                }
                check_size(bytes)
            })?;
            if request.revision == 0 {
                request.revision = signed(revision(page.header.as_ref())?);
            }
            let Some(last) = last.filter(|_| page.more) else {
                keys.done();
                return Ok(children);
            };
            goes_on(&request, last)?;
            request.limit = (request.limit * 4).min(MOST_KEYS);
            request.key = match children.last() {
                Some(child)
                    if child.len() > prefix.len() && child.ends_with('/') && last.starts_with(child.as_bytes()) =>
                {
                    after_prefix(child.as_bytes())
                }
                _ => next_key(last),
            };
        }
    }
}

impl From<Malformed> for Failed {
    fn from(_: Malformed) -> Self {
        Self::unexpected("a page of a listing cannot be decoded")
    }
}

/// How much of a listing has come, whether it can be shown or not.
#[derive(Default)]
struct Size {
    bytes: usize,
    keys: usize,
}

impl Size {
    fn add(&mut self, entry: &Entry<'_>) {
        self.bytes += entry.key.len() + entry.value.len();
        self.keys += 1;
    }

    /// How many keys the next page is to have.
    fn next_page(&self) -> i64 {
        let average = (self.bytes / self.keys.max(1)).max(1);
        i64::try_from((PAGE_BYTES / average).clamp(1, 100_000)).unwrap_or(FIRST_PAGE)
    }
}

/// A page that ends before it begins would make a listing go round in circles.
fn goes_on(request: &RangeRequest, last: &[u8]) -> Result<(), Failed> {
    if last < &*request.key { Err(Failed::unexpected("a page of a listing ends before it begins")) } else { Ok(()) }
}

fn check_size(bytes: usize) -> Result<(), Failed> {
    if bytes > LISTING { Err(Failed::unexpected("the listing takes more than 1 GiB")) } else { Ok(()) }
}

/// A read of one key, which may travel with others.
#[derive(Clone)]
pub(crate) struct Get {
    key: Bytes,
    serializable: bool,
    /// The value was large when it was last read.
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

    /// The answer counts, too: a small value would come as late as the large ones in the same transaction.
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
            Response::Range(range) => Some(range.kvs.into_iter().next()),
            _ => None,
        }
    }
}

/// The child of a directory that a key is or lies below; `directory` is the length of the directory's path.
fn child(key: &str, directory: usize) -> &str {
    let end = key[directory..].find('/').map_or(key.len(), |slash| directory + slash + 1);
    &key[..end]
}

/// The smallest key that is greater.
fn next_key(key: &[u8]) -> Bytes {
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.put_slice(key);
    next.put_u8(0);
    next.freeze()
}

fn value(kv: KeyValue) -> Value {
    Value { index: index(kv.mod_revision), data: kv.value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_a_key_or_a_directory() {
        assert_eq!(child("a", 0), "a");
        assert_eq!(child("a/b/c", 0), "a/");
        assert_eq!(child("a/b/c", 2), "a/b/");
        assert_eq!(child("a/b", 2), "a/b");
        // What other programs leave is shown as it is.
        assert_eq!(child("a//b", 2), "a//");
        assert_eq!(child("a/", 2), "a/");
    }

    #[test]
    fn pages_have_as_many_keys_as_fit_also_where_none_can_be_shown() {
        for key in [&b"ab"[..], b"a\xff"] {
            let mut size = Size::default();
            for _ in 0..20_000 {
                size.add(&Entry { key, value: &[0; 1022], ..Entry::default() });
            }
            assert_eq!(size.next_page(), 8 << 10);
        }
        assert_eq!(Size::default().next_page(), 100_000);
    }
}
