//! Ephemeral keys: entries that vanish with their session.

use std::sync::Arc;
use std::time::Duration;

use kv_core::backend::Grant;
use kv_core::{Error, Result};

use super::owned::Use;
use super::pending::PendingLease;
use crate::api::messages::Operation;
use crate::api::transaction::{Outcome, Refused, fault};
use crate::error::Refusal;
use crate::shared::Shared;

/// Creates a key that vanishes with its session.
pub(crate) async fn ephemeral_key(shared: &Arc<Shared>, key: &str, ttl: Duration) -> Result<Grant> {
    let lease = PendingLease::create(shared, key, ttl).await?;
    let lock = Operation::lock(key, lease.id(), b"", shared.fresh_flags());
    match shared.transact(&[Operation::check_index(key, 0), lock]).await? {
        Outcome::Applied(index) => {
            let token = index.ok_or_else(|| Error::unexpected_answer("the key was created, but no index came back"))?;
            Ok(lease.grant(token, Use::EphemeralKey))
        }
        Outcome::Refused(refused) => Err(fault(&refused).unwrap_or_else(|| transient(key, &refused))),
    }
}

/// The error for a key that could not be locked now, but perhaps later.
fn transient(key: &str, refused: &[Refused]) -> Error {
    let says = |why| refused.iter().any(|one| one.why == why);
    if says(Refusal::Check) {
        Error::Conflict { key: key.to_owned() }
    } else if says(Refusal::Delayed) {
        Error::unavailable("the lock delay of the key's last session is not over")
    } else {
        Error::unavailable("the session ended before it could be used")
    }
}
