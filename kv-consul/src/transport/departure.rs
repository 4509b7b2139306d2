//! Whether a write has left this process ([clause W6](kv_core::contract::CLAUSES#W6)).

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use super::callers::Callers;

const WAITS: u8 = 0;
const LEFT: u8 = 1;
const WITHDRAWN: u8 = 2;

/// The fate of one attempt of a write: it waits for a connection until it either leaves or is withdrawn.
///
/// The HTTP client does not report whether it has begun to send. But it asks for the body only when it has a
/// connection, just before it sends the first byte. So the body decides: it is handed out, or the write is withdrawn.
pub(super) struct Departure {
    state: AtomicU8,
    callers: Callers,
}

impl Departure {
    pub(super) fn new(callers: &Callers) -> Arc<Self> {
        Arc::new(Self { state: AtomicU8::new(WAITS), callers: callers.clone() })
    }

    /// Lets the write leave, unless it was withdrawn or its callers' time is up.
    fn leave(&self) -> bool {
        if self.state.load(Ordering::Acquire) != WAITS {
            return false;
        }
        // This is noted first. A caller whose time is up at this moment may learn too little, but never that a
        // departing write was not applied.
        self.callers.sent()
            && !self.callers.are_late()
            && self.state.compare_exchange(WAITS, LEFT, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Keeps the write from leaving; false if it has left.
    pub(super) fn withdraw(&self) -> bool {
        match self.state.compare_exchange(WAITS, WITHDRAWN, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => true,
            Err(state) => state == WITHDRAWN,
        }
    }
}

/// The body of a request.
pub(super) struct Departing {
    body: Option<Bytes>,
    departure: Arc<Departure>,
}

impl Departing {
    pub(super) fn new(body: Bytes, departure: Arc<Departure>) -> Self {
        Self { body: Some(body), departure }
    }
}

/// The write was withdrawn.
#[derive(Debug)]
pub(super) struct Withdrawn;

impl std::fmt::Display for Withdrawn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the write was withdrawn before it was sent")
    }
}

impl std::error::Error for Withdrawn {}

impl Body for Departing {
    type Data = Bytes;
    type Error = Withdrawn;

    fn poll_frame(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Withdrawn>>> {
        let Some(body) = self.body.take() else { return Poll::Ready(None) };
        Poll::Ready(Some(if self.departure.leave() { Ok(Frame::data(body)) } else { Err(Withdrawn) }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.body.as_ref().map_or(0, Bytes::len) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_write_leaves_or_is_withdrawn_and_never_both() {
        let left = Departure::new(&Callers::current());
        assert!(left.leave());
        assert!(!left.withdraw());
        let withdrawn = Departure::new(&Callers::current());
        assert!(withdrawn.withdraw() && withdrawn.withdraw());
        assert!(!withdrawn.leave());
    }
}
