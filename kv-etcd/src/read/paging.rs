//! Reading a range in pages.

use std::slice;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use kv_core::backend::call::Call;

use crate::api::messages::{List, RangeRequest};
use crate::api::page::Malformed;
use crate::batch::LARGEST;
use crate::error::Failed;
use crate::large_keys::LargeKeys;
use crate::transport::client::{Client, Volume};

/// The most that one listing may take, in bytes, so that no server can fill the memory.
const LISTING: usize = 1 << 30;

/// A page of a small listing as it came, linearizable unless the address asks for less.
pub(crate) async fn page(client: &Client, request: &RangeRequest) -> Result<Bytes, Failed> {
    let request = RangeRequest { serializable: client.config.serializable, ..request.clone() };
    Ok(client.call(List(request)).await?.0)
}

/// Reads pages of listings that may be large.
pub(crate) struct Pager {
    pub(crate) client: Arc<Client>,
    /// The keys at which large pages begin.
    large: LargeKeys,
}

impl Pager {
    pub(crate) fn new(client: &Arc<Client>) -> Self {
        Self { client: Arc::clone(client), large: LargeKeys::default() }
    }

    /// A page of a listing as it came, linearizable unless the address asks for less.
    pub(crate) async fn page(&self, request: &RangeRequest) -> Result<Bytes, Failed> {
        let request = RangeRequest { serializable: self.client.config.serializable, ..request.clone() };
        // Later pages are as large as the first one.
        let (key, was_large) = (request.key.clone(), self.large.contains(&request.key) || request.revision != 0);
        let size = if was_large { Volume::Large } else { Volume::Small };
        let caller = Call::current();
        let page = self.client.call_for(slice::from_ref(&caller), size, List(request)).await?.0;
        if (page.len() > LARGEST) != was_large {
            self.large.note(&key, page.len() > LARGEST);
        }
        Ok(page)
    }
}

/// Makes the next page smaller if this one was too large; false if the failure has another cause, or the page has one
/// entry.
pub(crate) fn shrink(limit: &mut i64, failed: &Failed) -> bool {
    let can = failed.is_too_large() && *limit > 1;
    if can {
        *limit = (*limit / 8).max(1);
    }
    can
}

/// A page that ends before it begins would make a listing go round in circles.
pub(crate) fn goes_on(request: &RangeRequest, last: &[u8]) -> Result<(), Failed> {
    if last < &*request.key { Err(Failed::unexpected("a page of a listing ends before it begins")) } else { Ok(()) }
}

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
