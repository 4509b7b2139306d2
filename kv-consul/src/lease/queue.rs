//! The order in which the callers of one handle wait for a lock ([clause L13](kv_core::contract::CLAUSES#L13)).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

/// The queues of the callers of one runtime, one for each key. Only the first caller in a queue has a session and asks
/// the store.
#[derive(Default)]
pub(crate) struct Queues {
    keys: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// A place in the queue for a key. Dropping it leaves the queue.
pub(super) struct Ticket<'a> {
    queues: &'a Queues,
    key: &'a str,
    /// There once the place is the first.
    first: Option<OwnedMutexGuard<()>>,
}

impl Queues {
    /// Waits for the first place.
    pub(super) async fn wait<'a>(&'a self, key: &'a str) -> Ticket<'a> {
        // The ticket comes first, so that it is dropped, and tidies up, however the wait ends.
        let mut ticket = Ticket { queues: self, key, first: None };
        ticket.first = Some(self.queue(key).lock_owned().await);
        ticket
    }

    /// Takes the first place if the queue is empty.
    pub(super) fn try_first<'a>(&'a self, key: &'a str) -> Option<Ticket<'a>> {
        let first = self.queue(key).try_lock_owned().ok()?;
        Some(Ticket { queues: self, key, first: Some(first) })
    }

    fn queue(&self, key: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.entry(key.to_owned()).or_default().clone()
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.first = None;
        let mut keys = self.queues.keys.lock().unwrap_or_else(PoisonError::into_inner);
        // Callers that wait have a reference of their own, which they took under this mutex.
        if keys.get(self.key).is_some_and(|queue| Arc::strong_count(queue) == 1) {
            keys.remove(self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn an_empty_queue_is_forgotten() {
        let queues = Queues::default();
        let first = queues.wait("k").await;
        assert!(queues.try_first("k").is_none());
        let waiting = tokio::time::timeout(Duration::from_millis(10), queues.wait("k")).await;
        assert!(waiting.is_err());
        assert!(queues.try_first("other").is_some());
        drop(first);
        assert!(queues.keys.lock().expect("not poisoned").is_empty());
        assert!(queues.try_first("k").is_some());
    }
}
