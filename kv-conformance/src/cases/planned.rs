//! Routine work of operators costs callers time, never an error: [clause S5](kv_core::contract::CLAUSES#S5).
//!
//! Every workload of `chaos` runs through each of these, together with eight busy tasks on one handle. The history is
//! judged as under any fault, and no call may fail without effect. The restarts are in `clusters`.

use kv_core::{Error, EventType, MemberLeave};

use crate::case::cases;
use crate::chaos::{Fault, Nemesis, weather};
use crate::context::Context;
use crate::outcome::{Broke, Keeps as _, Outcome, check, refused, same};

cases! { "planned":
    leadership_moved ["S5", "R1", "R2", "W1", "W2", "W3", "W5", "W6", "E1", "E2", "E3", "E4", "E6", "L1", "L2", "L4", "L5", "A6"] needs [Cluster, LeaderTransfer] "All workloads go on while leadership moves from member to member, and no call fails that could be made again."
    defragmented ["S5", "R1", "R2", "W1", "W2", "W3", "W5", "W6", "E1", "E2", "E3", "E4", "E6", "L1", "L2", "L4", "L5", "A6"] needs [Cluster, Defragmentation] "All workloads go on while history is compacted and each member defragmented, and no call fails that could be made again."
    left_and_returned ["S5", "R1", "R2", "W1", "W2", "W3", "W5", "W6", "E1", "E2", "E3", "E4", "E6", "L1", "L2", "L4", "L5", "A6"] needs [Cluster, Leaving] "All workloads go on while each member leaves and returns, and no call fails that could be made again."
    upgraded ["S5", "R1", "R2", "W1", "W2", "W3", "W5", "W6", "E1", "E2", "E3", "E4", "E6", "L1", "L2", "L4", "L5", "A6"] needs [Cluster, Upgrade] "All workloads go on while each member is upgraded to each later version, and no call fails that could be made again."
    leases_of_a_member_that_left ["L1", "L2", "L4", "L5"] needs [Cluster, Leaving] "When the member that granted leases has left, they go on or end as the store states, and their holders learn it."
}

async fn leadership_moved(cx: Context) -> Outcome {
    weather(&cx, cx.effort(), || Nemesis::new(&cx, Fault::LeadershipMoved)).await
}

async fn defragmented(cx: Context) -> Outcome {
    weather(&cx, cx.effort(), || Nemesis::new(&cx, Fault::Defragmented)).await
}

async fn left_and_returned(cx: Context) -> Outcome {
    weather(&cx, cx.effort(), || Nemesis::new(&cx, Fault::LeftAndReturned)).await
}

async fn upgraded(cx: Context) -> Outcome {
    // Once: there is no way back to the earlier versions.
    weather(&cx, 1, || Nemesis::new(&cx, Fault::Upgraded)).await
}

async fn leases_of_a_member_that_left(cx: Context) -> Outcome {
    let faults = cx.faults()?;
    let endpoints = faults.endpoints();
    let member = (cx.leader().await? + 1) % endpoints.len();
    // Through this member alone, so that it is the one that grants the leases.
    let holder = faults.connect_to(&endpoints[member..=member]).await?.scoped(cx.directory())?;
    let key = holder.ephemeral_key("key", cx.long_ttl()).await?;
    let lock = holder.lock("lock", cx.long_ttl()).await?;
    let mut elsewhere = endpoints.clone();
    elsewhere.remove(member);
    let other = cx.around(faults.connect_to(&elsewhere).await?.scoped(cx.directory())?);
    let mut events = other.watch("key", 0).await?;
    let (waiter, ttl) = (other.kv().clone(), cx.long_ttl());
    let waiting = tokio::spawn(async move { waiter.lock("lock", ttl).await });
    cx.hurt("have a member leave and return", faults.leave_and_return(member)).await?;
    let limits = cx.limits().member_leave;
    cx.note(format_args!("the store states that it {limits:?}"));
    match limits {
        MemberLeave::KeepsLeases => {
            other.get("key").await.keeps("L1")?;
            key.renew().await.keeps("L1")?;
            lock.renew().await.keeps("L4")?;
            check!("L4", !waiting.is_finished(), "a lock that is held was given to a waiter");
            key.destroy().await.keeps("L2")?;
            lock.unlock().await.keeps("L7")?;
        }
        MemberLeave::EndsLeases => {
            let event = events.next("L1").await?;
            same!("L1", event.event_type, EventType::Delete, "the event of a lease that ended with its member");
            refused!("L2", key.renew().await, Error::Lost { .. });
            refused!("L2", key.set("late").await, Error::Lost { .. });
            let guarded = other.kv().txn().held(&lock).set("guarded", "");
            refused!("L5", other.commit(guarded).await, Error::Lost { .. });
            refused!("L7", lock.unlock().await, Error::Lost { .. });
        }
    }
    let next = tokio::time::timeout(cx.expiry(), waiting).await;
    let next = next.map_err(|_| Broke::new("L4", "the lock is free, and its waiter does not get it"))?;
    next.map_err(|panic| Broke::new("L4", panic.to_string()))?.keeps("L4")?.unlock().await.keeps("L7")
}
