//! What one watch has seen, and the changes that wait for its consumer.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use kv_core::{Error, Result};
use tokio::time::Instant;

use super::diff::{Change, changes, concern, of_scope};
use crate::api::listing::Listing;
use crate::api::state::{ScopeBuf, State};

/// How many changes, and how many bytes of values, wait for a consumer before further changes are merged.
const CHANGES: usize = 1024;
const BYTES: usize = 4 << 20;

/// A new listing of a query, for all watches of that query.
pub(super) struct Update {
    pub(super) listing: Listing,
    /// The state before, and the changes since then. Most watches have seen that state and need no comparison of their
    /// own.
    pub(super) before: Option<Arc<State>>,
    pub(super) changes: Arc<Changes>,
}

/// Changes with their values, sorted by key.
pub(super) struct Changes {
    pub(super) all: Vec<Change>,
    /// The value of each change, or the error of decoding the values.
    pub(super) values: Result<Vec<Bytes>, String>,
    /// The bytes of all values.
    bytes: usize,
    /// The index of the listing that showed them.
    pub(super) index: u64,
}

impl Changes {
    /// Decodes the values of changes from the listing that showed them.
    pub(super) fn of(changes: Vec<Change>, listing: &Listing) -> Self {
        let value = |change: &Change| change.row.map_or(Ok(Bytes::new()), |row| listing.value(row));
        let values: Result<Vec<Bytes>> = changes.iter().map(value).collect();
        let bytes = values.iter().flatten().map(Bytes::len).sum();
        Self { all: changes, values: values.map_err(|error| error.to_string()), bytes, index: listing.index }
    }
}

/// The queue between a watch and the query that feeds it.
///
/// Changes wait here for the consumer, up to a limit. Beyond that only the latest update is kept, and the consumer gets
/// all changes up to it merged. So a slow consumer needs bounded memory ([clause E5](kv_core::contract::CLAUSES#E5)).
pub(super) struct Slot {
    pub(super) scope: ScopeBuf,
    cell: Mutex<Cell>,
}

struct Cell {
    /// The state after all changes in the queue.
    seen: Seen,
    queue: VecDeque<Arc<Changes>>,
    /// The latest update, if it or an earlier one did not fit into the queue.
    latest: Option<Arc<Update>>,
    failure: Option<Error>,
    waker: Option<Waker>,
}

/// The state that a watch has seen, with all events up to it.
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
    pub(super) fn new(scope: ScopeBuf, base: &Listing) -> Self {
        let (seen, queue) = (Seen::of(base), VecDeque::new());
        Self { scope, cell: Mutex::new(Cell { seen, queue, latest: None, failure: None, waker: None }) }
    }

    /// Goes back to an older state, so that the differences to the new listing are changes.
    pub(super) fn step_back(&self, older: Arc<State>, index: u64, listing: Listing) {
        let mut cell = self.cell();
        cell.seen = Seen { state: older, index, received: listing.asked };
        drop(cell);
        let changes = Arc::new(Changes::of(Vec::new(), &listing));
        self.offer(&Arc::new(Update { listing, before: None, changes }));
    }

    /// Takes an update. Returns whether it changes anything for this watch.
    pub(super) fn offer(&self, update: &Arc<Update>) -> bool {
        let scope = self.scope.as_scope();
        let mut cell = self.cell();
        // An answer that was on its way while this watch read its own listing may be older than that listing.
        if update.listing.index < cell.seen.index && update.listing.asked < cell.seen.received {
            return false;
        }
        let known = update.before.as_ref().is_some_and(|before| Arc::ptr_eq(before, &cell.seen.state));
        let same = if known {
            !concern(of_scope(&update.changes.all, scope), scope)
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

    /// Adopts a state if it equals, in this watch's scope, the state that the watch has seen. Returns whether it does.
    pub(super) fn adopt(&self, state: &Arc<State>) -> bool {
        let mut cell = self.cell();
        let scope = self.scope.as_scope();
        if let Some(update) = &cell.latest {
            return update.listing.state.is_same(state, scope);
        }
        let same = cell.seen.state.is_same(state, scope);
        if same {
            cell.seen.state = state.clone();
        }
        same
    }

    /// The index of the state that was seen.
    pub(super) fn seen_index(&self) -> u64 {
        self.cell().seen.index
    }

    /// The next changes: those of the whole query, or those that were computed for this watch alone.
    pub(super) fn poll_changes(&self, cx: &mut Context<'_>) -> Poll<Result<Arc<Changes>>> {
        let mut cell = self.cell();
        if let Some(changes) = cell.queue.pop_front() {
            return Poll::Ready(Ok(changes));
        }
        if let Some(update) = cell.latest.take() {
            let before = std::mem::replace(&mut cell.seen, Seen::of(&update.listing));
            drop(cell);
            let listing = &update.listing;
            let changes = changes(&before.state, &listing.state, self.scope.as_scope(), listing.index);
            return Poll::Ready(Ok(Arc::new(Changes::of(changes, listing))));
        }
        if let Some(error) = cell.failure.take() {
            return Poll::Ready(Err(error));
        }
        cell.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Ends the watch with an error.
    pub(super) fn fail(&self, error: Error) {
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
