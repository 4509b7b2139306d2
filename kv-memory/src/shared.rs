//! What the handles of one store share: the data behind its lock, and the time.
//!
//! No task runs. A read or a write first ends the leases that have lapsed, and each call that waits has a timer of its
//! own for the next deadline. So no runtime depends on another one being driven.

use std::pin::pin;
use std::sync::{Arc, PoisonError};

use crossbeam_utils::sync::{ShardedLock, ShardedLockReadGuard, ShardedLockWriteGuard};
use kv_core::clock::Moment;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::options::Options;
use crate::state::State;

pub(crate) struct Shared {
    /// Sharded, so that readers on several threads do not contend for one count of readers. A write takes every
    /// shard, which costs it less than a lookup in a large store.
    state: ShardedLock<State>,
    pub(crate) options: Options,
    /// Notified when a new lease lapses sooner than any other. Calls that wait then set their timers again.
    earlier_deadline: Arc<Notify>,
}

impl Shared {
    pub(crate) fn new(options: Options) -> Arc<Self> {
        let earlier_deadline = Arc::new(Notify::new());
        let state = ShardedLock::new(State::new(options, Arc::clone(&earlier_deadline)));
        Arc::new(Self { state, options, earlier_deadline })
    }

    /// The data as of now: leases that have lapsed are ended.
    pub(crate) fn read(&self) -> ShardedLockReadGuard<'_, State> {
        let state = self.read_as_is();
        if !state.has_lapsed() {
            return state;
        }
        drop(state);
        drop(self.write());
        self.read_as_is()
    }

    /// The data for a change: leases that have lapsed are ended before it.
    pub(crate) fn write(&self) -> ShardedLockWriteGuard<'_, State> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if state.next_deadline().is_some() {
            state.end_lapsed(Moment::now());
        }
        state
    }

    fn read_as_is(&self) -> ShardedLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a notification. Meanwhile it ends the leases that lapse, because that may cause the notification.
    pub(crate) async fn wait(&self, notify: &Notify) {
        let mut notified = pin!(notify.notified());
        loop {
            // Before the deadline is read, so that none that comes earlier is missed.
            let earlier_deadline = self.earlier_deadline.notified();
            let deadline = self.read().next_deadline();
            tokio::select! {
                biased;
                () = &mut notified => return,
                () = earlier_deadline => {}
                () = sleep_until_any(deadline) => {}
            }
        }
    }
}

/// Sleeps until the deadline. Without one it sleeps for ever, and needs no timer.
async fn sleep_until_any(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
