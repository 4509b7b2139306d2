//! Calls that are given up: what they have taken by then is given back (clauses [L4](kv_core::contract::CLAUSES#L4) and
//! [L12](kv_core::contract::CLAUSES#L12)).

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use kv_core::Kv;
use tokio::time::{sleep, timeout};

use crate::minimal::Minimal;
use crate::server::{Mood, Server};
use crate::{connect, until};

const TTL: Duration = Duration::from_secs(600);

/// Polls a future at most this many times and drops it; returns whether it was dropped before it ended.
async fn give_up_after(polls: usize, future: impl Future) -> bool {
    let mut future = pin!(future);
    let mut left = polls;
    let polled = poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(true);
        }
        left -= 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(_) => Poll::Ready(false),
            Poll::Pending if left == 0 => Poll::Ready(true),
            Poll::Pending => Poll::Pending,
        }
    });
    // A call that waits for a lock is not polled again.
    timeout(Duration::from_millis(200), polled).await.unwrap_or(true)
}

/// Waits until the store has this many leases, and the keys on them.
async fn only_left(what: &str, store: &Minimal, leases: usize) {
    until(what, || store.leases() == leases && store.keys("job/").len() == leases).await;
}

async fn start(mood: impl FnOnce(&Minimal) -> Mood) -> (Server, Minimal, Kv) {
    let (server, store) = (Server::start().await, Minimal::new());
    server.turn(mood(&store));
    let kv = connect(&server, "30s").await;
    // The calls of the test begin with a connection.
    kv.set("first", "").await.expect("an index");
    (server, store, kv)
}

#[tokio::test]
async fn a_lock_given_up_anywhere_leaves_nothing() {
    let (_server, store, kv) = start(Minimal::mood).await;
    for held in [false, true] {
        let holder = if held { Some(kv.lock("job", TTL).await.expect("the lock")) } else { None };
        let mut polls = 1;
        loop {
            let given_up = give_up_after(polls, kv.lock("job", TTL)).await;
            only_left(&format!("held: {held}, after {polls} polls"), &store, usize::from(held)).await;
            polls += 1;
            if !given_up || polls > 12 {
                break;
            }
        }
        assert!(polls > 3, "it was given up in several places");
        drop(holder);
        only_left("the holder's", &store, 0).await;
    }
}

#[tokio::test]
async fn a_lease_whose_grant_comes_late_is_revoked() {
    let (_server, store, kv) = start(|store| {
        let store = store.clone();
        Mood::Call(Arc::new(move |call| {
            let store = store.clone();
            Box::pin(async move {
                // A cluster may apply a grant after its revocation.
                if call.method() == "LeaseGrant" {
                    sleep(Duration::from_millis(100)).await;
                }
                store.serve(call).await;
            })
        }))
    })
    .await;
    for verb in ["lock", "try_lock", "ephemeral_key"] {
        let before = store.grants();
        let asked = async {
            match verb {
                "lock" => kv.lock("job", TTL).await.map(drop),
                "try_lock" => kv.try_lock("job", TTL).await.map(drop),
                _ => kv.ephemeral_key("job/key", TTL).await.map(drop),
            }
        };
        assert!(timeout(Duration::from_millis(50), asked).await.is_err(), "{verb} waits for its lease");
        until("the grant", || store.grants() > before).await;
        only_left(verb, &store, 0).await;
    }
}
