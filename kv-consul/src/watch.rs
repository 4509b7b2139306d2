//! What one watch has seen, and the events that it delivers.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures_core::Stream;
use kv_core::{Error, Event, Result};
use tokio::time::Instant;

use crate::diff::{Change, State, of_scope};
use crate::hub::{Hub, Query};
use crate::read::Listing;

/// How many changes wait for a consumer, and how many bytes of values in them, before the rest of them is merged.
const CHANGES: usize = 1024;
const BYTES: usize = 4 << 20;

/// A new listing of a query, as all its watches get it.
pub(crate) struct Update {
    pub(crate) listing: Listing,
    /// The state before, and what changed since: most watches have seen the same, and need not look themselves.
    pub(crate) before: Option<Arc<State>>,
    pub(crate) changes: Arc<Changes>,
}

/// Changes with their values, sorted by key, as far as these could be decoded.
pub(crate) struct Changes {
    all: Vec<Change>,
    values: Result<Vec<Bytes>, String>,
    /// What they take, in bytes of values.
    bytes: usize,
    /// The index of the listing that showed them.
    index: u64,
}

impl Changes {
    /// Takes the values of changes out of the listing that showed them.
    pub(crate) fn of(changes: Vec<Change>, listing: &Listing) -> Self {
        let value = |change: &Change| change.row.map_or(Ok(Bytes::new()), |row| listing.value(row));
        let values: Result<Vec<Bytes>> = changes.iter().map(value).collect();
        let bytes = values.iter().flatten().map(Bytes::len).sum();
        Self { all: changes, values: values.map_err(|error| error.to_string()), bytes, index: listing.index }
    }
}

/// Where a watch and the query that feeds it meet.
///
/// What changed waits here for the consumer, up to a limit. From then on only the latest update is kept, and the
/// consumer finds whatever changed until then merged: a slow one costs no more memory than a fast one.
pub(crate) struct Slot {
    pub(crate) query: Query,
    cell: Mutex<Cell>,
}

struct Cell {
    /// The state after everything in the queue.
    seen: Seen,
    queue: VecDeque<Arc<Changes>>,
    /// The latest update, if it or one before it could not be queued.
    latest: Option<Arc<Update>>,
    failure: Option<Error>,
    waker: Option<Waker>,
}

/// What a watch knows of: every event up to this state.
struct Seen {
    state: Arc<State>,
    index: u64,
    received: Instant,
}

impl Seen {
    fn of(listing: &Listing) -> Self {
        Self { state: listing.state.clone(), index: listing.index, received: listing.received }
    }
}

impl Slot {
    pub(crate) fn new(query: Query, base: &Listing) -> Self {
        let (seen, queue) = (Seen::of(base), VecDeque::new());
        Self { query, cell: Mutex::new(Cell { seen, queue, latest: None, failure: None, waker: None }) }
    }

    /// Takes an older state for the one that was seen, and what was listed now for news.
    pub(crate) fn step_back(&self, older: Arc<State>, index: u64, listing: Listing) {
        let mut cell = self.cell();
        cell.seen = Seen { state: older, index, received: listing.asked };
        drop(cell);
        let changes = Arc::new(Changes::of(Vec::new(), &listing));
        self.offer(&Arc::new(Update { listing, before: None, changes }));
    }

    /// Takes note of an update, and says whether it changes anything for this watch.
    pub(crate) fn offer(&self, update: &Arc<Update>) -> bool {
        let scope = self.query.scope();
        let mut cell = self.cell();
        // An answer that was on its way while this watch listed for itself may show what was before that.
        if update.listing.index < cell.seen.index && update.listing.asked < cell.seen.received {
            return false;
        }
        let known = update.before.as_ref().is_some_and(|before| Arc::ptr_eq(before, &cell.seen.state));
        let same = if known {
            of_scope(&update.changes.all, scope).is_empty()
        } else {
            cell.seen.state.is_same(&update.listing.state, scope)
        };
        if same {
            cell.seen = Seen::of(&update.listing);
            cell.latest = None;
            return false;
        }
        if known && cell.has_room(&update.changes) {
            cell.seen = Seen::of(&update.listing);
            cell.queue.push_back(update.changes.clone());
        } else {
            cell.latest = Some(update.clone());
        }
        cell.wake();
        true
    }

    /// Shares a state that looks the same in this watch's scope as what it knows of; false if it does not.
    pub(crate) fn adopt(&self, state: &Arc<State>) -> bool {
        let mut cell = self.cell();
        let scope = self.query.scope();
        if let Some(update) = &cell.latest {
            return update.listing.state.is_same(state, scope);
        }
        let same = cell.seen.state.is_same(state, scope);
        if same {
            cell.seen.state = state.clone();
        }
        same
    }

    /// Ends the watch with an error.
    pub(crate) fn fail(&self, error: Error) {
        let mut cell = self.cell();
        cell.failure = Some(error);
        cell.wake();
    }

    fn cell(&self) -> MutexGuard<'_, Cell> {
        self.cell.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cell {
    fn has_room(&self, more: &Changes) -> bool {
        let waiting = self.queue.iter().map(|one| one.all.len()).sum::<usize>();
        let bytes = self.queue.iter().map(|one| one.bytes).sum::<usize>();
        self.latest.is_none()
            && (self.queue.is_empty() || (waiting + more.all.len() <= CHANGES && bytes + more.bytes <= BYTES))
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// A watch: dropping it stops what only it needs.
pub(crate) struct Subscription {
    slot: Arc<Slot>,
    hub: Arc<Hub>,
    /// Events up to this index are not delivered.
    after: u64,
    /// The largest index that was delivered, or seen with what was.
    floor: u64,
    queue: VecDeque<Event>,
    /// What ends the watch, once the queue is empty.
    last: Option<Error>,
    ended: bool,
}

impl Subscription {
    pub(crate) fn new(slot: Arc<Slot>, hub: Arc<Hub>, after: u64) -> Self {
        let floor = slot.cell().seen.index.max(after);
        Self { slot, hub, after, floor, queue: VecDeque::new(), last: None, ended: false }
    }

    /// Waits until something changed in any way.
    pub(crate) async fn changed(&mut self) -> Result<()> {
        std::future::poll_fn(|cx| self.poll_changes(cx)).await.map(drop)
    }

    /// The next changes: of the whole query, or of this watch alone.
    fn poll_changes(&mut self, cx: &mut Context<'_>) -> Poll<Result<Arc<Changes>>> {
        let mut cell = self.slot.cell();
        if let Some(changes) = cell.queue.pop_front() {
            return Poll::Ready(Ok(changes));
        }
        if let Some(update) = cell.latest.take() {
            let before = std::mem::replace(&mut cell.seen, Seen::of(&update.listing));
            drop(cell);
            let listing = &update.listing;
            let changes = before.state.changes(&listing.state, self.slot.query.scope(), listing.index);
            return Poll::Ready(Ok(Arc::new(Changes::of(changes, listing))));
        }
        if let Some(error) = cell.failure.take() {
            return Poll::Ready(Err(error));
        }
        cell.waker = Some(cx.waker().clone());
        Poll::Pending
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
        let start = all.partition_point(|change| change.key.as_str() < self.slot.query.start());
        let own = of_scope(all, self.slot.query.scope()).iter().zip(&values[start..]);
        let mut own: Vec<_> = own.filter(|(change, _)| change.index > self.after).collect();
        // Stable, so that a deletion stays before the creation that follows it.
        own.sort_by_key(|(change, _)| change.index);
        for (change, value) in own {
            // Indices do not go backwards even where the store's did, because it was restored from an old snapshot.
            self.floor = self.floor.max(change.index);
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
            match std::task::ready!(this.poll_changes(cx)) {
                Ok(changes) => this.enqueue(&changes),
                Err(error) => this.last = Some(error),
            }
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.leave(&self.slot);
    }
}
