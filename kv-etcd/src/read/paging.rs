//! Reading a range in pages.

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::api::messages::{List, RangeRequest};
use crate::api::page::Malformed;
use crate::error::Failed;
use crate::transport::client::Client;

/// The most that one listing may take, in bytes, so that no server can fill the memory.
const LISTING: usize = 1 << 30;

/// A page of a listing as it came, linearizable unless the address asks for less.
pub(crate) async fn page(client: &Client, request: &RangeRequest) -> Result<Bytes, Failed> {
    let request = RangeRequest { serializable: client.config.serializable, ..request.clone() };
    Ok(client.call(List(request)).await?.0)
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
