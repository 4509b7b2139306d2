//! The pages of a listing: a range that is read piece by piece, at one revision.

use std::slice;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use kv_core::backend::call::Call;

use crate::api::messages::{List, RangeRequest};
use crate::api::page::{Entry, Malformed, Page};
use crate::api::range::{revision, signed};
use crate::batch::LARGEST;
use crate::error::Failed;
use crate::large_keys::LargeKeys;
use crate::transport::client::{Client, Volume};

/// The most bytes that one listing may take, so that no server can fill the memory.
const LISTING: usize = 1 << 30;

/// Reads listings of any size.
pub(crate) struct Pager {
    pub(crate) client: Arc<Client>,
    /// The keys at which large pages begin.
    large: LargeKeys,
}

impl Pager {
    pub(crate) fn new(client: &Arc<Client>) -> Self {
        Self { client: Arc::clone(client), large: LargeKeys::default() }
    }

    /// The pages of a range. The first asks for `request.limit` entries, and its revision is that of all pages.
    pub(crate) fn pages(&self, request: RangeRequest) -> Pages<'_> {
        let serializable = self.client.config.serializable;
        Pages { pager: self, request: RangeRequest { serializable, ..request } }
    }

    /// Reads one page and returns it encoded.
    async fn page(&self, request: &RangeRequest) -> Result<Bytes, Failed> {
        // Later pages are as large as the first one.
        let was_large = self.large.contains(&request.key) || request.revision != 0;
        let size = if was_large { Volume::Large } else { Volume::Small };
        let caller = Call::current();
        let page = self.client.call_for(slice::from_ref(&caller), size, List(request.clone())).await?.0;
        if (page.len() > LARGEST) != was_large {
            self.large.note(&request.key, page.len() > LARGEST);
        }
        Ok(page)
    }
}

/// Reads a listing. If its revision is compacted between two pages, the listing is read again at a newer one.
pub(crate) async fn until_complete<T, F>(read: impl Fn() -> F) -> Result<T, Failed>
where
    F: Future<Output = Result<T, Failed>>,
{
    loop {
        match read().await {
            Err(failed) if failed.is_compacted() => tracing::debug!("a listing was compacted while it was read"),
            result => return result,
        }
    }
}

/// The pages of one listing. For each page, call [`fetch`](Self::fetch), then [`read`](Self::read); if another page
/// follows, also [`go_on`](Self::go_on).
pub(crate) struct Pages<'a> {
    pager: &'a Pager,
    request: RangeRequest,
}

impl Pages<'_> {
    /// Reads the next page and returns it encoded. It asks for fewer entries if they are too large for one answer.
    pub(crate) async fn fetch(&mut self) -> Result<Bytes, Failed> {
        loop {
            match self.pager.page(&self.request).await {
                Err(failed) if failed.is_too_large() && self.request.limit > 1 => {
                    self.request.limit = (self.request.limit / 8).max(1);
                }
                result => return result,
            }
        }
    }

    /// Decodes a page and calls `each` with its entries, until one call fails. Returns the last key if another page
    /// follows.
    pub(crate) fn read<'m>(
        &mut self,
        page: &'m [u8],
        mut each: impl FnMut(Entry<'m>) -> Result<(), Failed>,
    ) -> Result<Option<&'m [u8]>, Failed> {
        let mut last = None;
        let page = Page::read(page, |entry| {
            last = Some(entry.key);
            each(entry)
        })?;
        if self.request.revision == 0 {
            self.request.revision = signed(revision(page.header.as_ref())?);
        }
        let last = last.filter(|_| page.more);
        if last.is_some_and(|last| last < &*self.request.key) {
            // The listing would never end.
            return Err(Failed::unexpected("a page of a listing ends before it begins"));
        }
        Ok(last)
    }

    /// The revision of the listing; 0 before the first page is read.
    pub(crate) fn revision(&self) -> i64 {
        self.request.revision
    }

    /// The most entries in a page.
    pub(crate) fn limit(&self) -> i64 {
        self.request.limit
    }

    /// Lets the next page begin at `key` and have at most `limit` entries.
    pub(crate) fn go_on(&mut self, key: Bytes, limit: i64) {
        self.request.key = key;
        self.request.limit = limit;
    }
}

/// Fails if a listing takes too much memory.
pub(crate) fn check_size(bytes: usize) -> Result<(), Failed> {
    if bytes > LISTING { Err(Failed::unexpected("the listing takes more than 1 GiB")) } else { Ok(()) }
}

/// The smallest key that is greater.
pub(crate) fn next_key(key: &[u8]) -> Bytes {
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.put_slice(key);
    next.put_u8(0);
    next.freeze()
}

impl From<Malformed> for Failed {
    fn from(_: Malformed) -> Self {
        Self::unexpected("a page of a listing cannot be decoded")
    }
}
