//! Ephemeral keys: entries that vanish with their session.

use std::sync::Arc;
use std::time::Duration;

use kv_core::backend::Grant;
use kv_core::backend::backoff::Backoff;
use kv_core::backend::call::Call;
use kv_core::{Error, Result};
use tokio::time::sleep;

use super::pending::PendingLease;
use super::place::Place;
use crate::api::messages::Operation;
use crate::api::transaction::{Outcome, fault};
use crate::error::Refusal;
use crate::shared::Shared;

/// The pauses before another session is created, or before the next attempt during a lock delay.
const AGAIN: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(250));

/// Creates a key that vanishes with its session ([clause L1](kv_core::contract::CLAUSES#L1)).
///
/// It repeats the attempt until its future is dropped, while the key could still be created: an agent that leaves the
/// cluster ends its sessions, and a lock delay ends ([clause S5](kv_core::contract::CLAUSES#S5)).
pub(crate) async fn ephemeral_key(shared: &Arc<Shared>, key: &str, ttl: Duration) -> Result<Grant> {
    let place = Place::ephemeral_key(key);
    let mut backoff = Backoff::new(AGAIN.0, AGAIN.1);
    let mut lease = PendingLease::create(shared, &place, ttl).await?;
    loop {
        let lock = Operation::lock(key, lease.id(), b"", place.flags(shared));
        let refused = match shared.transact(&[Operation::check_index(key, 0), lock]).await? {
            Outcome::Applied(Some(token)) => return Ok(lease.grant(token, place)),
            Outcome::Applied(None) => {
                return Err(Error::unexpected_answer("the key was created, but no index came back"));
            }
            Outcome::Refused(refused) => refused,
        };
        if let Some(error) = fault(&refused) {
            return Err(error);
        }
        if refused.iter().any(|one| one.why == Refusal::Check) {
            return Err(place.conflict());
        }
        let no_session = refused.iter().any(|one| one.why == Refusal::NoSession);
        note_refusal(no_session);
        sleep(backoff.next()).await;
        if no_session || !lease.renew_if_due().await {
            lease = PendingLease::create(shared, &place, ttl).await?;
        }
    }
}

/// Notes that nothing was created, and why, for the error of a call that runs out of time.
fn note_refusal(no_session: bool) {
    let call = Call::current();
    call.not_sent();
    call.attempt_failed(&Error::unavailable(if no_session {
        "the session ended before it could be used"
    } else {
        "the lock delay of the key's last session is not over"
    }));
}
