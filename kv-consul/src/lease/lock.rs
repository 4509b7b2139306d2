//! Locks like those of `consul lock`: an entry below the name, with its flags, locked by a session.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use kv_core::backend::Grant;
use kv_core::backend::backoff::{Backoff, Recovery};
use kv_core::backend::call::Call;
use kv_core::{Error, Result, observability};
use tokio::time::sleep;

use super::pending::PendingLease;
use super::place::Place;
use super::queue::Queues;
use crate::api::listing::Listing;
use crate::api::lock::LOCK_FLAGS;
use crate::api::messages::Operation;
use crate::api::transaction::{Outcome, fault};
use crate::config::NAME;
use crate::error::Refusal;
use crate::read::{self, LockEntry};
use crate::shared::Shared;
use crate::watch::hub::Hub;
use crate::watch::subscription::Subscription;

/// How soon a lock is tried again during its lock delay. The end of a lock delay changes nothing that a watch could see.
const DELAY: Duration = Duration::from_millis(250);

/// A wait that takes this long is reported.
const LONG_WAIT: Duration = Duration::from_secs(1);

/// The pauses after failures.
const AFTER_FAILURE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// The pauses after a lock was free, but could not be locked.
const AFTER_NOTHING: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));

/// The result of an attempt to lock an entry.
enum Attempt {
    /// The entry is locked, with this token.
    Granted(u64),
    /// The entry is not as expected.
    Taken,
    /// The lock delay of the last holder is not over.
    Delayed,
    /// The session has ended.
    NoSession,
}

/// What a read of the entry showed.
enum Look {
    /// It can be locked if it still has this index; 0 if it does not exist.
    Free(u64),
    /// This session holds it, with this token: an attempt of unknown outcome was applied after all.
    Ours(u64),
    /// Another session holds it, in this listing.
    Held(Listing),
}

/// Waits for the lock ([clause L4](kv_core::contract::CLAUSES#L4)).
pub(crate) async fn lock(shared: &Arc<Shared>, hub: &Hub, queues: &Queues, name: &str, ttl: Duration) -> Result<Grant> {
    tokio::select! {
        grant = acquire(shared, hub, queues, name, ttl) => grant,
        never = report_long_wait() => match never {},
    }
}

/// Reports a wait once it is long.
async fn report_long_wait() -> Infallible {
    sleep(LONG_WAIT).await;
    observability::waiting_for_lock(NAME);
    pending().await
}

async fn acquire(shared: &Arc<Shared>, hub: &Hub, queues: &Queues, name: &str, ttl: Duration) -> Result<Grant> {
    let place = Place::lock(name);
    let _ticket = queues.wait(name).await;
    let mut recovery = Recovery::new(NAME, "lock", Backoff::new(AFTER_FAILURE.0, AFTER_FAILURE.1));
    let mut idle = Backoff::new(AFTER_NOTHING.0, AFTER_NOTHING.1);
    let mut lease = create(shared, &place, ttl, &mut recovery).await?;
    let mut expected = 0;
    loop {
        match attempt(shared, &lease, &place, expected).await {
            // After a wait through an outage little or nothing may be left of the time to live.
            Ok(Attempt::Granted(token)) if lease.renew_if_due().await => return Ok(lease.grant(token, place)),
            Ok(Attempt::Granted(_) | Attempt::Taken) => {}
            Ok(Attempt::Delayed) => {
                sleep(DELAY).await;
                lease.renew_if_due().await;
            }
            Ok(Attempt::NoSession) => lease = create(shared, &place, ttl, &mut recovery).await?,
            Err(error) => survive(error, &mut recovery).await?,
        }
        expected = match look(shared, &lease, &place).await {
            Ok(Look::Free(index)) => {
                // The entry is as expected, but the attempt said that it was taken. Pause before the next attempt.
                if index == expected {
                    sleep(idle.next()).await;
                }
                index
            }
            Ok(Look::Ours(token)) if lease.renew_if_due().await => return Ok(lease.grant(token, place)),
            Ok(Look::Ours(_)) => {
                survive(Error::unavailable("the session could not be renewed"), &mut recovery).await?;
                0
            }
            Ok(Look::Held(listing)) => {
                // Watch from this listing; an older watch may already have seen it.
                wait(&mut hub.watch_key(&place.entry, listing), &lease).await?;
                recovery.worked();
                // Most likely the entry was deleted.
                0
            }
            Err(error) => {
                survive(error, &mut recovery).await?;
                0
            }
        };
    }
}

/// Takes the lock if it is free.
pub(crate) async fn try_lock(
    shared: &Arc<Shared>,
    queues: &Queues,
    name: &str,
    ttl: Duration,
) -> Result<Option<Grant>> {
    let place = Place::lock(name);
    let Some(_ticket) = queues.try_first(name) else { return Ok(None) };
    // The entry is read before a session is created, because callers may try a held lock repeatedly.
    let Some(expected) = free(shared, &place).await? else { return Ok(None) };
    let mut recovery = Recovery::new(NAME, "lock", Backoff::new(AFTER_FAILURE.0, AFTER_FAILURE.1));
    loop {
        let lease = PendingLease::create(shared, &place, ttl).await?;
        return match attempt(shared, &lease, &place, expected).await {
            Ok(Attempt::Granted(token)) => Ok(Some(lease.grant(token, place))),
            Ok(Attempt::Taken | Attempt::Delayed) => Ok(None),
            // The agent that created the session has left the cluster, and took the session along.
            Ok(Attempt::NoSession) => {
                let ended = Error::unavailable("the session ended before it could be used");
                let call = Call::current();
                call.not_sent();
                call.attempt_failed(&ended);
                sleep(recovery.failed(&ended)).await;
                continue;
            }
            Err(error @ Error::Indeterminate { .. }) => match look(shared, &lease, &place).await {
                Ok(Look::Ours(token)) => Ok(Some(lease.grant(token, place))),
                _ => Err(error),
            },
            Err(error) => Err(error),
        };
    }
}

/// Locks the entry, provided that it still has the index; 0 means that it does not exist.
async fn attempt(shared: &Shared, lease: &PendingLease, place: &Place, expected: u64) -> Result<Attempt> {
    let lock = Operation::lock(&place.entry, lease.id(), b"", LOCK_FLAGS);
    match shared.transact(&[Operation::check_index(&place.entry, expected), lock]).await? {
        Outcome::Applied(Some(index)) => Ok(Attempt::Granted(index)),
        Outcome::Applied(None) => Err(Error::unexpected_answer("the entry was locked, but no index came back")),
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

async fn look(shared: &Shared, lease: &PendingLease, place: &Place) -> Result<Look> {
    let (listing, entry) = read::lock_entry(&*shared.client()?, &place.entry).await?;
    match entry {
        Some(LockEntry { session: Some(holder), modify_index, .. }) if holder == lease.id() => {
            Ok(Look::Ours(modify_index))
        }
        entry => Ok(free_index(place, entry)?.map_or(Look::Held(listing), Look::Free)),
    }
}

/// The index that the entry must keep to be locked; none if it is held.
async fn free(shared: &Shared, place: &Place) -> Result<Option<u64>> {
    let (_, entry) = read::lock_entry(&*shared.client()?, &place.entry).await?;
    free_index(place, entry)
}

fn free_index(place: &Place, entry: Option<LockEntry>) -> Result<Option<u64>> {
    match entry {
        None => Ok(Some(0)),
        // A foreign value, or an entry of Consul's semaphore. Neither may be overwritten.
        Some(entry) if entry.flags != LOCK_FLAGS => Err(place.conflict()),
        Some(LockEntry { session: Some(_), .. }) => Ok(None),
        Some(entry) => Ok(Some(entry.modify_index)),
    }
}

/// Waits until the entry changes, and keeps the session alive meanwhile.
async fn wait(watch: &mut Subscription, lease: &PendingLease) -> Result<()> {
    loop {
        tokio::select! {
            changed = watch.changed() => return changed,
            () = lease.keep_alive() => {}
        }
    }
}

/// Creates a session, however long that takes: an agent that has just joined cannot create one yet.
async fn create(shared: &Arc<Shared>, place: &Place, ttl: Duration, recovery: &mut Recovery) -> Result<PendingLease> {
    loop {
        match PendingLease::create(shared, place, ttl).await {
            Ok(lease) => return Ok(lease),
            Err(error) => survive(error, recovery).await?,
        }
    }
}

/// Pauses after an error that does not end the wait; returns any other error.
async fn survive(error: Error, recovery: &mut Recovery) -> Result<()> {
    if !matches!(error, Error::Unavailable { .. } | Error::Indeterminate { .. }) {
        return Err(error);
    }
    let pause = recovery.failed(&error);
    sleep(pause).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free(flags: u64, session: Option<&str>) -> Result<Option<u64>> {
        let entry = LockEntry { flags, session: session.map(str::to_owned), modify_index: 7 };
        free_index(&Place::lock("k"), Some(entry))
    }

    #[test]
    fn only_a_lock_without_a_holder_is_free() {
        assert!(matches!(free_index(&Place::lock("k"), None), Ok(Some(0))));
        assert!(matches!(free(LOCK_FLAGS, None), Ok(Some(7))));
        assert!(matches!(free(LOCK_FLAGS, Some("s")), Ok(None)));
        for session in [None, Some("s")] {
            assert!(matches!(free(0, session), Err(Error::Conflict { key }) if key == "k"));
        }
    }
}
