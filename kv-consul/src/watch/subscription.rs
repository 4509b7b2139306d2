//! The stream of events of one watch.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;
use kv_core::{Error, Event, Result};

use super::diff::of_scope;
use super::feed::Feeds;
use super::slot::{Changes, Slot};

/// A watch. Dropping it ends the query if no other watch needs it.
pub(crate) struct Subscription {
    slot: Arc<Slot>,
    feeds: Arc<Feeds>,
    /// The largest index that was delivered or seen. No later event has a smaller one.
    floor: u64,
    queue: VecDeque<Event>,
    /// The error that ends the watch once the queue is empty.
    last: Option<Error>,
    ended: bool,
}

impl Subscription {
    pub(super) fn new(slot: Arc<Slot>, feeds: Arc<Feeds>, after: u64) -> Self {
        let floor = slot.seen_index().max(after);
        Self { slot, feeds, floor, queue: VecDeque::new(), last: None, ended: false }
    }

    /// Waits until something in the scope of the query changed.
    pub(crate) async fn changed(&mut self) -> Result<()> {
        std::future::poll_fn(|cx| self.slot.poll_changes(cx)).await.map(drop)
    }

    fn enqueue(&mut self, changes: &Changes) {
        let Changes { all, values, index, .. } = changes;
        let values = match values {
            Ok(values) => values,
            Err(reason) => {
                self.last = Some(Error::unexpected_answer(reason));
                return;
            }
        };
        let start = all.partition_point(|change| change.key.as_str() < self.slot.scope.start());
        let own = of_scope(all, self.slot.scope.as_scope()).iter().zip(&values[start..]);
        let mut own: Vec<_> = own.filter(|(change, _)| !change.is_lock).collect();
        // A changed entry with an old index belongs to another history: the store was restored from a snapshot. Its
        // true index would make indices go backwards (clause E2), and any other index would fail in an update.
        let seen = self.floor;
        if own.iter().any(|(change, _)| change.row.is_some() && change.index <= seen) {
            self.last = Some(Error::Compacted { after: seen, oldest: None });
            return;
        }
        // A stable sort keeps a deletion before the creation that follows it.
        own.sort_by_key(|(change, _)| change.index);
        for (change, value) in own {
            // The index of a deletion may not be known.
            self.floor = self.floor.max(change.index).max(seen + 1);
            let (key, event_type) = (change.key.clone(), change.event_type);
            self.queue.push_back(Event { key, event_type, data: value.clone(), index: self.floor });
        }
        self.floor = self.floor.max(*index);
    }
}

impl Stream for Subscription {
    type Item = Result<Event>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(event) = this.queue.pop_front() {
                return Poll::Ready(Some(Ok(event)));
            }
            if let Some(error) = this.last.take() {
                this.ended = true;
                return Poll::Ready(Some(Err(error)));
            }
            if this.ended {
                return Poll::Ready(None);
            }
            match std::task::ready!(this.slot.poll_changes(cx)) {
                Ok(changes) => this.enqueue(&changes),
                Err(error) => this.last = Some(error),
            }
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.feeds.leave(&self.slot);
    }
}
