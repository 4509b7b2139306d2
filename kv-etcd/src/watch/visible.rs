//! The events that the user of a watch sees: those of data, without the entries of locks
//! ([clause L10](kv_core::contract::CLAUSES#L10)).
//!
//! The event of a put has the lease of the key. The event of a deletion has none. So the watch remembers which keys
//! with the name of a lock's entry were one. For the deletion of such a key that it has not seen, it reads the key at
//! the revision before. It does so on the consumer's side, so that no other watch waits.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::vec::IntoIter;

use futures_core::Stream;
use futures_util::future::BoxFuture;
use kv_core::{Error, Event, EventType, Result};

use super::deleted::{Deletion, lock_entries};
use super::events::Events;
use super::reassembly::{Batch, Change};
use crate::api::lock_entry::{is_lock_entry, named_lease};
use crate::api::range::index;
use crate::transport::client::Client;

/// The most keys that a watch remembers. The deletion of a forgotten key costs a read.
const REMEMBERED: usize = 10_000;

/// The stream of events that a user sees.
pub(crate) struct Visible {
    events: Events,
    client: Arc<Client>,
    seen: Seen,
    ready: IntoIter<Event>,
    /// Events with deletions that are being looked up.
    asking: Option<BoxFuture<'static, Result<Vec<Event>>>>,
    /// The index up to which everything was delivered.
    position: u64,
    failed: bool,
}

impl Visible {
    pub(crate) fn new(events: Events, client: &Arc<Client>, after: u64) -> Self {
        Self {
            events,
            client: Arc::clone(client),
            seen: Seen::default(),
            ready: Vec::new().into_iter(),
            asking: None,
            position: after,
            failed: false,
        }
    }

    fn take(&mut self, batch: Batch) {
        let (position, last) = (self.position, index(batch.last));
        let judged = self.seen.judge(batch.changes);
        if judged.unknown.is_empty() {
            self.ready = judged.shown();
            self.position = last;
        } else {
            let client = Arc::clone(&self.client);
            self.asking = Some(Box::pin(async move { judged.ask(&client, position).await }));
            self.position = last;
        }
    }
}

impl Stream for Visible {
    type Item = Result<Event>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(event) = self.ready.next() {
                return Poll::Ready(Some(Ok(event)));
            }
            if self.failed {
                return Poll::Ready(None);
            }
            let error = if let Some(asking) = &mut self.asking {
                let answer = ready!(asking.as_mut().poll(cx));
                self.asking = None;
                match answer {
                    Ok(events) => {
                        self.ready = events.into_iter();
                        continue;
                    }
                    Err(error) => error,
                }
            } else {
                match ready!(self.events.poll_next(cx)) {
                    Some(Ok(batch)) => {
                        self.take(batch);
                        continue;
                    }
                    Some(Err(error)) => error,
                    None => return Poll::Ready(None),
                }
            };
            self.failed = true;
            return Poll::Ready(Some(Err(error)));
        }
    }
}

/// Which keys with the name of a lock's entry were one when they were last seen.
#[derive(Default)]
struct Seen(HashMap<String, Kind>);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Lock,
    Data,
}

/// The events of a batch that are shown or may be shown.
struct Judged {
    events: Vec<Event>,
    /// The positions of deletions whose keys may have been entries of locks.
    unknown: Vec<usize>,
}

impl Seen {
    fn judge(&mut self, changes: Vec<Change>) -> Judged {
        let mut judged = Judged { events: Vec::with_capacity(changes.len()), unknown: Vec::new() };
        for Change { event, lease } in changes {
            if named_lease(event.key.as_bytes()).is_none() {
                judged.events.push(event);
            } else if event.event_type == EventType::Delete {
                match self.0.remove(&event.key) {
                    Some(Kind::Lock) => continue,
                    Some(Kind::Data) => {}
                    None => judged.unknown.push(judged.events.len()),
                }
                judged.events.push(event);
            } else {
                judged.events.extend(self.put(event, lease));
            }
        }
        judged
    }

    /// The event that is shown for a put to a key with the name of a lock's entry.
    fn put(&mut self, mut event: Event, lease: i64) -> Option<Event> {
        let kind = if is_lock_entry(event.key.as_bytes(), lease) { Kind::Lock } else { Kind::Data };
        if self.0.len() >= REMEMBERED {
            self.0.clear();
        }
        let before = self.0.insert(event.key.clone(), kind);
        match (before, kind) {
            // Another client wrote to the entry of a lock. That detached the key from its lease, so now it is data.
            (Some(Kind::Lock), Kind::Data) => event.event_type = EventType::Create,
            // The data became the entry of a lock, so the data is gone.
            (Some(Kind::Data), Kind::Lock) if event.event_type == EventType::Update => {
                let Event { key, index, .. } = event;
                return Some(Event { key, event_type: EventType::Delete, index, data: bytes::Bytes::new() });
            }
            (_, Kind::Lock) => return None,
            (_, Kind::Data) => {}
        }
        Some(event)
    }
}

impl Judged {
    fn shown(self) -> IntoIter<Event> {
        self.events.into_iter()
    }

    /// Removes the deletions of entries of locks. `position` is the index up to which events were delivered before.
    async fn ask(mut self, client: &Client, position: u64) -> Result<Vec<Event>> {
        let unknown = self.unknown.iter().filter_map(|place| self.events.get(*place));
        let deletions: Vec<_> =
            unknown.map(|event| Deletion { key: event.key.clone().into(), index: event.index }).collect();
        match lock_entries(client, deletions).await {
            Ok(locks) => {
                let is_lock = |event: &Event| {
                    let deletion = Deletion { key: event.key.clone().into(), index: event.index };
                    event.event_type == EventType::Delete && locks.contains(&deletion)
                };
                if !locks.is_empty() {
                    self.events.retain(|event| !is_lock(event));
                }
                Ok(self.events)
            }
            Err(Error::Compacted { oldest, .. }) => Err(Error::Compacted { after: position, oldest }),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(key: &str, event_type: EventType, lease: i64) -> Change {
        Change { event: Event { key: key.to_owned(), event_type, index: 7, data: bytes::Bytes::new() }, lease }
    }

    fn judged(seen: &mut Seen, changes: Vec<Change>) -> (Vec<(String, EventType)>, Vec<usize>) {
        let Judged { events, unknown } = seen.judge(changes);
        (events.into_iter().map(|event| (event.key, event.event_type)).collect(), unknown)
    }

    #[test]
    fn entries_of_locks_are_left_out() {
        use EventType::{Create, Delete, Update};
        let mut seen = Seen::default();
        let changes = vec![
            change("job/1f", Create, 0x1f),
            change("job/2f", Create, 0),
            change("job/x", Create, 0x1f),
            change("job/1f", Update, 0x1f),
            change("job/1f", Delete, 0),
            change("job/2f", Delete, 0),
            change("job/x", Delete, 0),
        ];
        let shown = [("job/2f", Create), ("job/x", Create), ("job/2f", Delete), ("job/x", Delete)];
        let (events, unknown) = judged(&mut seen, changes);
        assert_eq!(events, shown.map(|(key, kind)| (key.to_owned(), kind)));
        assert!(unknown.is_empty(), "{unknown:?}");
    }

    #[test]
    fn a_deletion_of_an_unknown_key_is_looked_up() {
        let mut seen = Seen::default();
        let changes = vec![
            change("a", EventType::Delete, 0),
            change("job/1f", EventType::Delete, 0),
            change("job/1f", EventType::Delete, 0),
        ];
        assert_eq!(judged(&mut seen, changes).1, [1, 2]);
    }

    #[test]
    fn an_entry_that_becomes_data_is_created_and_data_that_becomes_an_entry_is_deleted() {
        use EventType::{Create, Delete, Update};
        let mut seen = Seen::default();
        let changes = vec![
            change("job/1f", Create, 0x1f),
            change("job/1f", Update, 0),
            change("job/1f", Update, 0),
            change("job/1f", Update, 0x1f),
            change("job/1f", Delete, 0),
        ];
        let kinds: Vec<_> = judged(&mut seen, changes).0.into_iter().map(|(_, kind)| kind).collect();
        assert_eq!(kinds, [Create, Update, Delete]);
    }

    #[test]
    fn the_number_of_remembered_keys_is_bounded() {
        let mut seen = Seen::default();
        for number in 1..=2 * REMEMBERED {
            seen.judge(vec![change(&format!("job/{number:x}"), EventType::Create, 1)]);
            assert!(seen.0.len() <= REMEMBERED);
        }
    }
}
