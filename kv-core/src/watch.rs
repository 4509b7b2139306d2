//! The stream of events that a watch delivers.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;

use crate::backend::EventStream;
use crate::caller::Caller;
use crate::{Event, Result};

/// The changes under a prefix, as a [`Stream`] (clauses [E1](crate::contract::CLAUSES#E1) to
/// [E5](crate::contract::CLAUSES#E5)): from [`Kv::watch`](crate::Kv::watch) or [`Kv::observe`](crate::Kv::observe).
///
/// It survives disconnects, restarts and leader changes without loss or repetition. Only a permanent failure ends
/// it: an `Err` is its last item. Dropping it stops the watch, so that one that is not kept sees nothing, which the
/// compiler warns of:
///
/// ```compile_fail
/// #![deny(unused_must_use)]
/// # async fn example(kv: kv_core::Kv) -> kv_core::Result<()> {
/// kv.watch("nodes/", 0).await?; // stopped by the next line
/// # Ok(())
/// # }
/// ```
#[must_use = "the watch stops as soon as it is dropped: bind it, and ask it for events with `next`"]
pub struct Watch {
    events: Option<EventStream>,
    caller: Caller,
    prefix: Arc<str>,
}

impl Watch {
    pub(crate) fn new(events: EventStream, caller: Caller, prefix: &str) -> Self {
        Self { events: Some(events), caller, prefix: prefix.into() }
    }

    /// Waits for the next event; `None` after the `Err` that ended the watch.
    ///
    /// Dropping the future loses no event.
    ///
    /// # Errors
    /// [`Error::Compacted`](crate::Error::Compacted) when the store has dropped events before this watch saw them:
    /// [`observe`](crate::Kv::observe) again. [`Error::PermissionDenied`](crate::Error::PermissionDenied).
    pub async fn next(&mut self) -> Option<Result<Event>> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl Stream for Watch {
    type Item = Result<Event>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Event>>> {
        let this = self.get_mut();
        let Some(events) = &mut this.events else { return Poll::Ready(None) };
        match std::task::ready!(events.as_mut().poll_next(cx)) {
            Some(Ok(mut event)) => {
                this.caller.make_relative(&mut event.key);
                Poll::Ready(Some(Ok(event)))
            }
            Some(Err(error)) => {
                this.events = None;
                Poll::Ready(Some(Err(this.caller.located(error, "watch", &this.prefix))))
            }
            None => {
                this.events = None;
                Poll::Ready(None)
            }
        }
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}
