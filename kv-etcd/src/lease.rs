//! Leases: granting, renewing and ending them, and the keys that live on them (clauses L1 to L3).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kv_core::{Error, Grant, Guard, Lease, Result};
use tokio::time::{Instant, timeout};

use crate::backoff::random;
use crate::client::Client;
use crate::error::Failed;
use crate::proto::{Compare, LeaseGrantRequest, LeaseRevokeRequest, PutRequest, RangeRequest, Request, TxnRequest};
use crate::range::{Range, index, revision};
use crate::txn::{absent, owned_by};

/// The longest time to live that etcd grants.
pub(crate) const MAX_TTL: Duration = Duration::from_secs(9_000_000_000);
/// How often a lease is asked for that turns out to exist: chance alone never repeats one of its numbers.
const ATTEMPTS: usize = 5;

/// A lease that nothing relies on yet: unless it is handed over, dropping it ends it in the background, and what
/// was put on it goes with it.
pub(crate) struct Claim {
    client: Arc<Client>,
    pub(crate) id: i64,
    /// What was granted.
    pub(crate) ttl: Duration,
    /// When the request that granted it, or its last renewal, began.
    pub(crate) since: Instant,
    /// Whether there may be something to end.
    armed: bool,
}

impl Claim {
    pub(crate) async fn grant(client: &Arc<Client>, ttl: Duration) -> Result<Self> {
        let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        for _ in 0..ATTEMPTS {
            // Numbered here, not by the server, so that a lease whose grant was cut off can be ended, too.
            let id = i64::try_from(random() >> 1).unwrap_or(i64::MAX).max(1);
            let mut claim = Self { client: Arc::clone(client), id, ttl, since: Instant::now(), armed: true };
            match client.call(LeaseGrantRequest { ttl: seconds, id }).await {
                Ok(granted) => {
                    claim.ttl = Duration::from_secs(index(granted.ttl));
                    if claim.ttl.is_zero() || claim.ttl > MAX_TTL {
                        return Err(Failed::odd("a lease was granted, for no time that there is").into());
                    }
                    return Ok(claim);
                }
                // The answer to a first attempt got lost; how long that lease lives is not known.
                Err(failed) if failed.is_lease_exists() => {}
                Err(failed) => {
                    claim.armed = !matches!(failed, Failed::Unreachable(_));
                    return Err(failed.into());
                }
            }
        }
        Err(Failed::odd("whatever lease is asked for, it exists already").into())
    }

    /// Starts its time to live anew; false if it has ended.
    pub(crate) async fn renew(&mut self) -> Result<bool> {
        let began = Instant::now();
        let lives = self.client.keep_alive(self.id).await?;
        if lives {
            self.since = began;
        }
        Ok(lives)
    }

    /// Ends it now; what fails is tried again in the background.
    pub(crate) async fn end(mut self) {
        if self.client.call(LeaseRevokeRequest { id: self.id }).await.is_ok() {
            self.armed = false;
        }
    }

    /// Makes it the caller's, with the key that was created on it at revision `token`.
    pub(crate) fn hand_over(mut self, key: &str, owner: &str, token: u64) -> Grant {
        self.armed = false;
        let lease = Leased {
            client: Arc::clone(&self.client),
            id: self.id,
            key: key.to_owned(),
            owner: Range::key(owner).key,
            token,
        };
        let guard = Guard { key: key.to_owned(), owner: owner.to_owned(), token };
        Grant { lease: Box::new(lease), ttl: self.ttl, since: self.since, guard }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        // Without a runtime nothing can be sent; the time to live ends the lease.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (client, id) = (Arc::clone(&self.client), self.id);
            runtime.spawn(async move {
                let ending = timeout(client.config.timeout, client.call(LeaseRevokeRequest { id }));
                if let Ok(Err(failed)) = ending.await
                    && !failed.is_lease_not_found()
                {
                    let error = Error::from(failed);
                    tracing::debug!(%error, "a lease that is not used is left to its time to live");
                }
            });
        }
    }
}

/// Creates a key that lives on a lease of its own.
pub(crate) async fn ephemeral_key(client: &Arc<Client>, key: &str, ttl: Duration) -> Result<Grant> {
    let claim = Claim::grant(client, ttl).await?;
    let put = PutRequest { key: Range::key(key).key, value: Bytes::new(), lease: claim.id };
    let request = TxnRequest {
        compare: vec![absent(Range::key(key))],
        success: vec![Request::Put(put).into()],
        failure: Vec::new(),
    };
    let answer = client.call(request).await?;
    if answer.succeeded {
        let token = revision(answer.header.as_ref())?;
        return Ok(claim.hand_over(key, key, token));
    }
    claim.end().await;
    Err(Error::Conflict { key: key.to_owned() })
}

/// A lease and the one key on it.
struct Leased {
    client: Arc<Client>,
    id: i64,
    /// What the caller calls it.
    key: String,
    /// The key that is on the lease.
    owner: Bytes,
    /// The revision that created the key: another with its name has another.
    token: u64,
}

impl Leased {
    fn lost(&self) -> Error {
        Error::Lost { key: self.key.clone() }
    }

    /// What holds for as long as the key is this lease's own: who created it, and which lease it is on.
    fn ownership(&self) -> Vec<Compare> {
        owned_by(&self.owner, self.token, self.id)
    }

    /// `Lost` if the key is gone, or another's.
    async fn check(&self) -> Result<()> {
        let read = RangeRequest { key: self.owner.clone(), keys_only: true, ..RangeRequest::default() };
        let request = TxnRequest {
            compare: self.ownership(),
            // A member answers comparisons alone from what it knows, however old; with a read it catches up first.
            success: vec![Request::Range(read).into()],
            failure: Vec::new(),
        };
        if self.client.call(request).await?.succeeded { Ok(()) } else { Err(self.lost()) }
    }

    async fn keep_alive(&self) -> Result<()> {
        if self.client.keep_alive(self.id).await? { Ok(()) } else { Err(self.lost()) }
    }
}

#[async_trait]
impl Lease for Leased {
    async fn renew(&self) -> Result<()> {
        // A lease may outlive its key, when somebody has deleted that.
        let (alive, owned) = tokio::join!(self.keep_alive(), self.check());
        owned.and(alive)
    }

    async fn set(&self, data: Bytes) -> Result<u64> {
        self.keep_alive().await?;
        let put = PutRequest { key: self.owner.clone(), value: data, lease: self.id };
        let request =
            TxnRequest { compare: self.ownership(), success: vec![Request::Put(put).into()], failure: Vec::new() };
        match self.client.call(request).await {
            Ok(answer) if answer.succeeded => Ok(revision(answer.header.as_ref())?),
            Ok(_) => Err(self.lost()),
            Err(failed) if failed.is_lease_not_found() => Err(self.lost()),
            Err(failed) => Err(failed.into()),
        }
    }

    async fn release(&self) -> Result<()> {
        let owned = self.check().await;
        if matches!(&owned, Err(error) if !error.is_lost()) {
            return owned;
        }
        // Ending the lease removes only what is on it, so nothing of another's.
        match self.client.call(LeaseRevokeRequest { id: self.id }).await {
            Ok(_) => owned,
            Err(failed) if failed.is_lease_not_found() => Err(self.lost()),
            Err(_) if owned.is_err() => owned,
            Err(failed) => Err(failed.into()),
        }
    }
}
