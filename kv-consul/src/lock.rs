//! Locks like those of Consul's own client: an entry with its flags, locked by a session.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kv_core::observability::reconnecting;
use kv_core::{Error, Grant, Result};
use tokio::sync::OwnedMutexGuard;
use tokio::time::{sleep, sleep_until};

use crate::NAME;
use crate::backend::Store;
use crate::blocking::Pause;
use crate::error::Refusal;
use crate::hub::{Hub, Query};
use crate::read::{Listing, LockEntry};
use crate::session::{Session, Use};
use crate::txn::{Outcome, fault};
use crate::watch::Subscription;
use crate::wire::{LOCK_FLAGS, Operation};

/// How soon a key is tried again that cannot be locked yet: the end of a lock delay wakes nobody.
const DELAY: Duration = Duration::from_millis(250);

/// Lines up the waiters of this process: of those for one key only the first has a session and asks the store.
#[derive(Default)]
pub(crate) struct Turns {
    keys: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// The first place in the line for a key.
struct Turn<'a> {
    turns: &'a Turns,
    key: &'a str,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    /// Waits for the first place. Whoever stops waiting leaves the line.
    async fn wait<'a>(&'a self, key: &'a str) -> Turn<'a> {
        // Made first, so that it is dropped, and tidies up, however the wait ends.
        let mut turn = Turn { turns: self, key, guard: None };
        turn.guard = Some(self.line(key).lock_owned().await);
        turn
    }

    /// The first place, if nobody has it.
    fn take<'a>(&'a self, key: &'a str) -> Option<Turn<'a>> {
        let guard = self.line(key).try_lock_owned().ok()?;
        Some(Turn { turns: self, key, guard: Some(guard) })
    }

    fn line(&self, key: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.entry(key.to_owned()).or_default().clone()
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.guard = None;
        let mut keys = self.turns.keys.lock().unwrap_or_else(PoisonError::into_inner);
        // Those who wait have a reference of their own, taken under this mutex.
        if keys.get(self.key).is_some_and(|line| Arc::strong_count(line) == 1) {
            keys.remove(self.key);
        }
    }
}

/// What an attempt to lock a key came to.
enum Attempt {
    /// It is held now, under this token.
    Granted(u64),
    /// The key is not as was expected.
    Taken,
    /// The lock delay of its last holder is not over.
    Delayed,
    /// The session ended.
    NoSession,
}

/// What a look at the key showed.
enum Look {
    /// It may be locked, if it still has this index; 0: if it does not exist.
    Free(u64),
    /// The session itself holds it, under this token: an attempt of unknown fate was applied after all.
    Ours(u64),
    /// Another session holds it, as listed here.
    Held(Listing),
}

/// Waits for the lock.
pub(crate) async fn lock(store: &Arc<Store>, hub: &Arc<Hub>, turns: &Turns, key: &str, ttl: Duration) -> Result<Grant> {
    let _turn = turns.wait(key).await;
    let mut session = Session::create(store, key, ttl).await?;
    let (mut pause, mut idle) = (Pause::after_failure(), Pause::after_nothing());
    let mut expected = 0;
    loop {
        match attempt(store, &session, key, expected).await {
            // What the last renewal left of the time to live may be little, or nothing, after a wait through an outage.
            Ok(Attempt::Granted(token)) if keep(&session).await => return Ok(session.grant(key, token, Use::Lock)),
            Ok(Attempt::Granted(_) | Attempt::Taken) => {}
            Ok(Attempt::Delayed) => {
                sleep(DELAY).await;
                keep(&session).await;
            }
            Ok(Attempt::NoSession) => session = again(store, key, ttl, &mut pause).await?,
            Err(error) => survive(error, &mut pause).await?,
        }
        expected = match look(store, &session, key).await {
            Ok(Look::Free(index)) => {
                // It is as was expected, and was taken meanwhile, or so it was said: not to be tried in haste.
                if index == expected {
                    sleep(idle.next()).await;
                }
                index
            }
            Ok(Look::Ours(token)) if keep(&session).await => return Ok(session.grant(key, token, Use::Lock)),
            Ok(Look::Ours(_)) => {
                sleep(pause.next()).await;
                0
            }
            Ok(Look::Held(listing)) => {
                // For a change from what was just seen: one from what an older watch saw last may never come.
                let mut watch = hub.subscribe(Query::Key(key.to_owned()), listing, 0, None);
                wait(&mut watch, &session).await?;
                pause.reset();
                // It was deleted, most likely.
                0
            }
            Err(error) => {
                survive(error, &mut pause).await?;
                0
            }
        };
    }
}

/// Takes the lock if it is free.
pub(crate) async fn try_lock(store: &Arc<Store>, turns: &Turns, key: &str, ttl: Duration) -> Result<Option<Grant>> {
    let Some(_turn) = turns.take(key) else { return Ok(None) };
    // Whoever asks again and again for a lock that is held is not to make a session each time.
    let Some(expected) = free(store, key).await? else { return Ok(None) };
    let session = Session::create(store, key, ttl).await?;
    match attempt(store, &session, key, expected).await {
        Ok(Attempt::Granted(token)) => Ok(Some(session.grant(key, token, Use::Lock))),
        Ok(Attempt::Taken | Attempt::Delayed) => Ok(None),
        Ok(Attempt::NoSession) => Err(Error::unavailable("the session ended before it could be used")),
        Err(error @ Error::Indeterminate { .. }) => match look(store, &session, key).await {
            Ok(Look::Ours(token)) => Ok(Some(session.grant(key, token, Use::Lock))),
            _ => Err(error),
        },
        Err(error) => Err(error),
    }
}

/// Locks the key, provided that it still has the index; 0: that it does not exist.
async fn attempt(store: &Store, session: &Session, key: &str, expected: u64) -> Result<Attempt> {
    let lock = Operation::lock(key, &session.id, b"", LOCK_FLAGS);
    match store.transact(&[Operation::check_index(key, expected), lock]).await? {
        Outcome::Applied(Some(index)) => Ok(Attempt::Granted(index)),
        Outcome::Applied(None) => Err(Error::unexpected_answer("the key was locked, but no index came back")),
        Outcome::Refused(refused) => {
            if let Some(error) = fault(&refused) {
                return Err(error);
            }
            let says = |why| refused.iter().any(|one| one.why == why);
            Ok(match () {
                () if says(Refusal::NoSession) => Attempt::NoSession,
                () if says(Refusal::Delayed) => Attempt::Delayed,
                () => Attempt::Taken,
            })
        }
    }
}

async fn look(store: &Store, session: &Session, key: &str) -> Result<Look> {
    let (listing, entry) = store.client.read_lock(key).await?;
    match entry {
        Some(LockEntry { session: Some(holder), modify_index, .. }) if holder == session.id => {
            Ok(Look::Ours(modify_index))
        }
        entry => Ok(free_index(key, entry)?.map_or(Look::Held(listing), Look::Free)),
    }
}

/// The index that the key must keep to be locked; none if it is held.
async fn free(store: &Store, key: &str) -> Result<Option<u64>> {
    let (_, entry) = store.client.read_lock(key).await?;
    free_index(key, entry)
}

fn free_index(key: &str, entry: Option<LockEntry>) -> Result<Option<u64>> {
    match entry {
        None => Ok(Some(0)),
        // Data, or an entry of Consul's semaphore: neither may be overwritten.
        Some(entry) if entry.flags != LOCK_FLAGS => Err(Error::Conflict { key: key.to_owned() }),
        Some(LockEntry { session: Some(_), .. }) => Ok(None),
        Some(entry) => Ok(Some(entry.modify_index)),
    }
}

/// Waits until the key changes, and keeps the session meanwhile.
async fn wait(watch: &mut Subscription, session: &Session) -> Result<()> {
    loop {
        tokio::select! {
            changed = watch.changed() => return changed,
            // Whether it could be kept shows in the next attempt.
            () = renewal(session) => {}
        }
    }
}

/// Renews the session once a third of its time to live is over.
async fn renewal(session: &Session) {
    sleep_until(session.since() + session.ttl / 3).await;
    if !matches!(session.renew().await, Ok(true)) {
        sleep(session.ttl / 12).await;
    }
}

/// Renews the session if a third of its time to live is over; false if that failed.
async fn keep(session: &Session) -> bool {
    session.since().elapsed() < session.ttl / 3 || matches!(session.renew().await, Ok(true))
}

/// Makes another session in the place of one that ended, however long that takes.
async fn again(store: &Arc<Store>, key: &str, ttl: Duration, pause: &mut Pause) -> Result<Session> {
    loop {
        match Session::create(store, key, ttl).await {
            Ok(session) => return Ok(session),
            Err(error) => survive(error, pause).await?,
        }
    }
}

/// Lets a while pass after an error that does not end the wait.
async fn survive(error: Error, pause: &mut Pause) -> Result<()> {
    if !matches!(error, Error::Unavailable { .. } | Error::Indeterminate { .. }) {
        return Err(error);
    }
    let length = pause.next();
    reconnecting(NAME, "lock", pause.count(), &error);
    sleep(length).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free(flags: u64, session: Option<&str>) -> Result<Option<u64>> {
        let entry = LockEntry { flags, session: session.map(str::to_owned), modify_index: 7 };
        free_index("k", Some(entry))
    }

    #[test]
    fn only_a_lock_that_nobody_holds_is_free() {
        assert!(matches!(free_index("k", None), Ok(Some(0))));
        assert!(matches!(free(LOCK_FLAGS, None), Ok(Some(7))));
        assert!(matches!(free(LOCK_FLAGS, Some("s")), Ok(None)));
        for session in [None, Some("s")] {
            assert!(matches!(free(0, session), Err(Error::Conflict { key }) if key == "k"));
        }
    }

    #[tokio::test]
    async fn a_line_is_forgotten_when_nobody_stands_in_it() {
        let turns = Turns::default();
        let first = turns.wait("k").await;
        assert!(turns.take("k").is_none());
        let waiting = tokio::time::timeout(Duration::from_millis(10), turns.wait("k")).await;
        assert!(waiting.is_err());
        assert!(turns.take("other").is_some());
        drop(first);
        assert!(turns.keys.lock().expect("not poisoned").is_empty());
        assert!(turns.take("k").is_some());
    }
}
