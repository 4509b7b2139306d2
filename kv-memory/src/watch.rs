//! Watches: cursors into the history, woken by the writes that concern them.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use kv_core::backend::EventStream;
use kv_core::{Error, Event, Result};

use crate::shared::Shared;
use crate::subscriptions::Subscription;

/// One watch; dropping it ends it.
pub(crate) struct MemoryWatch {
    shared: Arc<Shared>,
    prefix: String,
    subscription: Arc<Subscription>,
    /// The index that the watch begins after.
    after: u64,
    /// Events that are read and not delivered yet.
    events: VecDeque<Event>,
    /// The index of the last event that was read, if the history had nothing more of its commit.
    read: u64,
    failed: bool,
}

impl MemoryWatch {
    /// How many events are read at a time, under the lock, and how many records are looked at.
    const BATCH: usize = 64;
    const RECORDS: usize = 4096;

    /// Begins after an index, or now for 0. The state stays locked from the check of the history to the subscription.
    pub(crate) fn open(shared: &Arc<Shared>, prefix: &str, after: u64) -> Result<Self> {
        let mut state = shared.write();
        let oldest = state.history.compacted();
        if after != 0 && after < oldest {
            return Err(Error::Compacted { after, oldest: Some(oldest) });
        }
        let after = if after == 0 { state.revision } else { after };
        let position = state.history.position_after(after);
        let subscription = Subscription::new(Some(position).filter(|position| *position < state.history.end()));
        state.subscriptions.add(prefix, subscription.clone());
        drop(state);
        let (shared, prefix) = (shared.clone(), prefix.to_owned());
        Ok(Self { shared, prefix, subscription, after, events: VecDeque::new(), read: after, failed: false })
    }

    pub(crate) fn into_stream(self) -> EventStream {
        stream::unfold(self, |mut watch| async move { watch.next().await.map(|event| (event, watch)) }).boxed()
    }

    async fn next(&mut self) -> Option<Result<Event>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(Ok(event));
            }
            if self.failed {
                return None;
            }
            match self.subscription.unread() {
                None => self.shared.wait(self.subscription.wake()).await,
                Some(position) => {
                    if let Err(error) = self.read_ahead(position) {
                        self.failed = true;
                        return Some(Err(error));
                    }
                    if self.events.is_empty() {
                        // There may be very many records of others.
                        tokio::task::yield_now().await;
                    }
                }
            }
        }
    }

    fn read_ahead(&mut self, position: u64) -> Result<()> {
        // Shared with readers but not with writers, so nothing is announced meanwhile.
        let state = self.shared.read();
        let Some(records) = state.history.from(position) else {
            return Err(Error::Compacted { after: self.read, oldest: Some(state.history.compacted()) });
        };
        for (number, (position, record)) in records.enumerate() {
            if let Some(last) = self.events.back()
                && last.index < record.index
            {
                self.read = last.index;
            }
            if self.events.len() == Self::BATCH || number == Self::RECORDS {
                self.subscription.set_unread(Some(position));
                return Ok(());
            }
            if record.index > self.after && record.key.starts_with(&self.prefix) {
                self.events.push_back(record.event());
            }
        }
        self.read = self.events.back().map_or(self.read, |last| last.index);
        self.subscription.set_unread(None);
        Ok(())
    }
}

impl Drop for MemoryWatch {
    fn drop(&mut self) {
        self.shared.write().subscriptions.remove(&self.prefix, &self.subscription);
    }
}
