//! Leases while the machine is suspended: tokio's clock stands still, and the store's goes on
//! ([clause L6](crate::contract::CLAUSES#L6)).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::{Instant, sleep};

use crate::backend::{Backend, EventStream, Grant, Guard, Lease, Snapshot, Txn};
use crate::caller::Caller;
use crate::clock::{Moment, suspend};
use crate::{Error, ExpiryLag, ForeignWrite, Kv, Limits, LockOrder, MemberLeave, Result, Value, WatchHistory};

use super::LeaseHandle;

const TTL: Duration = Duration::from_secs(30);

/// A store that receives no calls.
struct Unused;

#[async_trait]
impl Backend for Unused {
    fn name(&self) -> &'static str {
        "unused"
    }

    fn limits(&self) -> Limits {
        Limits {
            key_bytes: 1,
            value_bytes: 1,
            txn_ops: 1,
            txn_bytes: 1,
            min_ttl: TTL,
            max_ttl: TTL,
            ttl_step: TTL,
            expiry_lag: ExpiryLag { fixed: Duration::ZERO, ttls: 0 },
            watch_history: WatchHistory::Every,
            foreign_write: ForeignWrite::Keeps,
            lock_order: LockOrder::Asked,
            member_leave: MemberLeave::KeepsLeases,
        }
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }

    async fn get(&self, key: &str) -> Result<Value> {
        Err(Error::NotFound { key: key.to_owned() })
    }

    async fn list(&self, _prefix: &str) -> Result<Snapshot> {
        Ok(Snapshot::default())
    }

    async fn keys(&self, _prefix: &str) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    async fn commit(&self, _txn: Txn) -> Result<Option<u64>> {
        Ok(None)
    }

    async fn watch(&self, _prefix: &str, _after: u64) -> Result<EventStream> {
        Err(Error::unavailable("unused"))
    }

    async fn observe(&self, _prefix: &str) -> Result<(Snapshot, EventStream)> {
        Err(Error::unavailable("unused"))
    }

    async fn ephemeral_key(&self, key: &str, _ttl: Duration) -> Result<Grant> {
        Err(Error::conflict(key, 0))
    }

    async fn lock(&self, key: &str, _ttl: Duration) -> Result<Grant> {
        Err(Error::conflict(key, 0))
    }

    async fn try_lock(&self, _key: &str, _ttl: Duration) -> Result<Option<Grant>> {
        Ok(None)
    }
}

/// A lease that counts its renewals. During each of them the machine is suspended for this long.
struct Counting {
    renewals: Arc<AtomicUsize>,
    suspended: Duration,
}

#[async_trait]
impl Lease for Counting {
    async fn renew(&self) -> Result<()> {
        self.renewals.fetch_add(1, Ordering::Relaxed);
        suspend(self.suspended);
        Ok(())
    }

    async fn set(&self, _data: Bytes) -> Result<u64> {
        self.renew().await.map(|()| 1)
    }

    async fn release(&self) -> Result<()> {
        Ok(())
    }
}

fn caller() -> Caller {
    Caller::new(Arc::new(Unused), Kv::DEFAULT_TIMEOUT)
}

fn held(suspended: Duration) -> (LeaseHandle, Arc<AtomicUsize>) {
    let renewals = Arc::<AtomicUsize>::default();
    let lease = Box::new(Counting { renewals: renewals.clone(), suspended });
    let guard = Guard { key: "key".to_owned(), owner: String::new(), token: 7 };
    let grant = Grant { lease, ttl: TTL, since: Moment::now(), guard };
    let caller = caller();
    let place = caller.place("key", TTL).expect("it is open");
    (LeaseHandle::new(caller, "key", grant, place).expect("it is open"), renewals)
}

fn is_lost<T>(result: Result<T>) -> bool {
    result.is_err_and(|error| error.is_lost())
}

#[tokio::test(start_paused = true)]
async fn a_lease_lapses_while_the_machine_is_suspended() {
    let (held, renewals) = held(Duration::ZERO);
    suspend(TTL * 9 / 10);
    held.renew().await.expect("within its time");
    suspend(TTL);
    assert!(held.guard(&caller()).is_err(), "a guard of a lease that has lapsed");
    assert!(is_lost(held.renew().await) && is_lost(held.set(Bytes::new()).await));
    assert_eq!(renewals.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_counts_from_before_the_machine_was_suspended() {
    let (held, _) = held(TTL);
    held.renew().await.expect("an answer");
    assert!(is_lost(held.renew().await), "the answer is as old as the lease lasts");
}

#[tokio::test(start_paused = true)]
async fn held_work_is_not_polled_again_after_the_machine_was_suspended_for_too_long() {
    let (held, _) = held(Duration::ZERO);
    let (began, steps) = (Instant::now(), AtomicUsize::new(0));
    let working = held.hold(async {
        loop {
            sleep(Duration::from_secs(1)).await;
            if steps.fetch_add(1, Ordering::Relaxed) == 2 {
                suspend(TTL);
            }
        }
    });
    let lost: Result<()> = working.await;
    assert!(is_lost(lost));
    assert_eq!((steps.into_inner(), began.elapsed()), (3, Duration::from_secs(4)), "it ends when the task wakes");
}

#[tokio::test(start_paused = true)]
async fn renewal_goes_on_after_a_short_sleep() {
    let (held, renewals) = held(Duration::ZERO);
    held.hold(async {
        sleep(Duration::from_secs(5)).await;
        suspend(TTL / 2);
        sleep(TTL).await;
    })
    .await
    .expect("renewed in time");
    assert!(renewals.load(Ordering::Relaxed) >= 2);
}
