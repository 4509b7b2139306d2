//! What one watch has seen, and the events that it delivers.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use futures_core::Stream;
use kv_core::{Error, Event, EventType, Result};
use tokio::time::Instant;

use crate::diff::{Change, State, of_scope};
use crate::hub::{Hub, Query};
use crate::read::Listing;

/// A new listing of a query, as all its watches get it.
pub(crate) struct Update {
    pub(crate) listing: Listing,
    /// The state before, and what changed since: most watches have seen the same, and need not look themselves.
    pub(crate) before: Option<Arc<State>>,
    pub(crate) changes: Vec<Change>,
}

/// Where a watch and the query that feeds it meet.
///
/// It keeps the latest update that was not looked at yet, and no older ones: a consumer that is slow finds the changes
/// in between merged, and costs no more memory than a fast one.
pub(crate) struct Slot {
    pub(crate) query: Query,
    cell: Mutex<Cell>,
}

struct Cell {
    seen: Seen,
    pending: Option<Arc<Update>>,
    failure: Option<Error>,
    waker: Option<Waker>,
}

/// What a watch has delivered: every event up to this state.
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
        let cell = Cell { seen: Seen::of(base), pending: None, failure: None, waker: None };
        Self { query, cell: Mutex::new(cell) }
    }

    /// Takes an older state for the one that was seen, and what was listed now for news.
    pub(crate) fn step_back(&self, older: Arc<State>, index: u64, listing: Listing) {
        let mut cell = self.cell();
        cell.seen = Seen { state: older, index, received: listing.asked };
        drop(cell);
        self.offer(&Arc::new(Update { listing, before: None, changes: Vec::new() }));
    }

    /// Takes note of an update, and says whether it changes anything for this watch.
    pub(crate) fn offer(&self, update: &Arc<Update>) -> bool {
        let scope = self.query.scope();
        let mut cell = self.cell();
        // An answer that was on its way while this watch listed for itself may show what was before that.
        if update.listing.index < cell.seen.index && update.listing.asked < cell.seen.received {
            return false;
        }
        let same = match &update.before {
            Some(before) if Arc::ptr_eq(before, &cell.seen.state) => of_scope(&update.changes, scope).is_empty(),
            _ => cell.seen.state.is_same(&update.listing.state, scope),
        };
        if same {
            cell.seen = Seen::of(&update.listing);
            cell.pending = None;
            return false;
        }
        cell.pending = Some(update.clone());
        cell.wake();
        true
    }

    /// Shares a state that looks the same in this watch's scope as what it saw last; false if it does not.
    pub(crate) fn adopt(&self, state: &Arc<State>) -> bool {
        let mut cell = self.cell();
        let scope = self.query.scope();
        if let Some(update) = &cell.pending {
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
        std::future::poll_fn(|cx| self.poll_update(cx)).await.map(drop)
    }

    /// The next update, with the state that was seen before it.
    fn poll_update(&mut self, cx: &mut Context<'_>) -> Poll<Result<(Arc<State>, Arc<Update>)>> {
        let mut cell = self.slot.cell();
        if let Some(update) = cell.pending.take() {
            let before = std::mem::replace(&mut cell.seen, Seen::of(&update.listing));
            return Poll::Ready(Ok((before.state, update)));
        }
        if let Some(error) = cell.failure.take() {
            return Poll::Ready(Err(error));
        }
        cell.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn enqueue(&mut self, before: &Arc<State>, update: &Update) {
        let (scope, listing) = (self.slot.query.scope(), &update.listing);
        let own;
        let changes = match &update.before {
            Some(known) if Arc::ptr_eq(known, before) => of_scope(&update.changes, scope),
            _ => {
                own = before.changes(&listing.state, scope, listing.index);
                &own
            }
        };
        let mut changes: Vec<&Change> = changes.iter().filter(|change| change.index > self.after).collect();
        // Stable, so that a deletion stays before the creation that follows it.
        changes.sort_by_key(|change| change.index);
        for change in changes {
            match self.event(change, listing) {
                Ok(event) => self.queue.push_back(event),
                Err(error) => {
                    self.last = Some(error);
                    return;
                }
            }
        }
        self.floor = self.floor.max(listing.index);
    }

    /// Indices do not go backwards even where the store's did, because it was restored from an old snapshot.
    fn event(&mut self, change: &Change, listing: &Listing) -> Result<Event> {
        let data = change.row.map(|row| listing.value(row)).transpose()?.unwrap_or_default();
        debug_assert_eq!(change.row.is_none(), change.event_type == EventType::Delete);
        self.floor = self.floor.max(change.index);
        Ok(Event { key: change.key.clone(), event_type: change.event_type, data, index: self.floor })
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
            match std::task::ready!(this.poll_update(cx)) {
                Ok((before, update)) => this.enqueue(&before, &update),
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
