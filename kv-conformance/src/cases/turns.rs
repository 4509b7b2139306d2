//! The order in which the waiters for a lock are served: [clause L13](kv_core::contract::CLAUSES#L13).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kv_core::LockOrder;
use tokio::sync::{Barrier, Notify};
use tokio::task::JoinSet;

use crate::case::cases;
use crate::client::Client;
use crate::context::Context;
use crate::outcome::{Keeps as _, Outcome, all_end, check, same};

cases! { "turns":
    of_one_handle ["L13"] "Those who wait through one handle are given the lock in the order in which they asked."
    across_handles ["L13"] "Those who wait through several handles are given the lock in the order that the limits state."
    who_leaves_holds_nobody_up ["L13", "L4"] "When one who waits gives up, those behind move up in their order."
    nobody_is_passed_over ["L13"] "Of those who take the lock again and again, through several handles, each has a fair share."
    a_handle_shares_with_itself ["L13"] "Of those who take the lock again and again through one handle, each has a fair share."
}

/// Starts waiters one after another, with a pause in which each joins the queue before the next one asks. Returns the
/// order in which they were served. The waiters in `leaving` stop waiting before the lock is free.
async fn order(cx: &Context, pause: Duration, waiting: &[Client], leaving: &[usize]) -> Outcome<Vec<usize>> {
    let holder = cx.client().await?;
    let lock = holder.lock("lock", cx.long_ttl()).await?;
    let served = Arc::new(Mutex::new(Vec::new()));
    let leave = Arc::new(Notify::new());
    let mut tasks = JoinSet::new();
    for (place, client) in waiting.iter().enumerate() {
        let (cx, client, served, leave) = (cx.clone(), client.clone(), served.clone(), leave.clone());
        let leaves = leaving.contains(&place);
        tasks.spawn(async move {
            let lock = tokio::select! {
                lock = client.lock("lock", cx.long_ttl()) => lock.keeps("L13")?,
                () = leave.notified(), if leaves => return Ok(()),
            };
            served.lock().unwrap_or_else(PoisonError::into_inner).push(place);
            client.call("unlock", lock.unlock()).await.keeps("L13")
        });
        tokio::time::sleep(pause).await;
    }
    leave.notify_waiters();
    tokio::time::sleep(pause).await;
    holder.call("unlock", lock.unlock()).await?;
    all_end(&mut tasks).await?;
    let served = served.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok(served)
}

/// The clients of several handles in turn, and the handle to which each place belongs.
async fn interleaved(cx: &Context, handles: usize, places: usize) -> Outcome<Vec<Client>> {
    let mut clients = Vec::new();
    for _ in 0..handles {
        clients.push(cx.client().await?);
    }
    Ok(clients.iter().cycle().take(places).cloned().collect())
}

async fn of_one_handle(cx: Context) -> Outcome {
    cx.steadily(|ttl| {
        let cx = &cx;
        async move {
            let waiting = interleaved(cx, 1, 6).await?;
            same!("L13", order(cx, ttl / 8, &waiting, &[]).await?, [0, 1, 2, 3, 4, 5], "the order of those served");
            Ok(())
        }
    })
    .await
}

async fn across_handles(cx: Context) -> Outcome {
    const HANDLES: usize = 3;
    cx.steadily(|ttl| {
        let cx = &cx;
        async move {
            let waiting = interleaved(cx, HANDLES, 9).await?;
            let served = order(cx, ttl / 8, &waiting, &[]).await?;
            if cx.limits().lock_order == LockOrder::Asked {
                same!("L13", served, [0, 1, 2, 3, 4, 5, 6, 7, 8], "the order of those served");
            }
            for handle in 0..HANDLES {
                let own: Vec<_> = served.iter().copied().filter(|place| place % HANDLES == handle).collect();
                let asked: Vec<_> = (handle..9).step_by(HANDLES).collect();
                same!("L13", own, asked, "the order of service of the waiters of handle {handle}");
            }
            Ok(())
        }
    })
    .await
}

async fn who_leaves_holds_nobody_up(cx: Context) -> Outcome {
    cx.steadily(|ttl| {
        let cx = &cx;
        async move {
            let waiting = interleaved(cx, 1, 6).await?;
            let served = order(cx, ttl / 8, &waiting, &[0, 3]).await?;
            same!("L13", served, [1, 2, 4, 5], "the order of service after two waiters had left");
            Ok(())
        }
    })
    .await
}

/// How often each client's task had held the lock when one of them had held it `rounds` times.
async fn shares(cx: &Context, clients: Vec<Client>, most: usize) -> Outcome<Vec<usize>> {
    let holder = cx.client().await?;
    let lock = holder.lock("lock", cx.long_ttl()).await?;
    let turns: Arc<Vec<AtomicUsize>> = Arc::new(clients.iter().map(|_| AtomicUsize::new(0)).collect());
    let all_have_asked = Arc::new(Barrier::new(clients.len() + 1));
    let mut tasks = JoinSet::new();
    for (place, client) in clients.into_iter().enumerate() {
        let (cx, turns, all_have_asked) = (cx.clone(), turns.clone(), all_have_asked.clone());
        tasks.spawn(async move {
            let mut waiting = Box::pin(client.kv().lock("lock", cx.long_ttl()));
            let early = futures_util::poll!(waiting.as_mut());
            check!("L4", early.is_pending(), "a lock that is held was given: {early:?}");
            all_have_asked.wait().await;
            loop {
                let lock = waiting.await.keeps("L13")?;
                let had = turns[place].fetch_add(1, Ordering::Relaxed) + 1;
                lock.unlock().await.keeps("L13")?;
                if had == most {
                    return Ok::<_, crate::outcome::Broke>(());
                }
                waiting = Box::pin(client.kv().lock("lock", cx.long_ttl()));
            }
        });
    }
    // All contenders ask before the first one is served, and the store has time to receive their requests.
    all_have_asked.wait().await;
    tokio::time::sleep(Duration::from_millis(250)).await;
    holder.call("unlock", lock.unlock()).await?;
    // The count ends when the first contender is done. The others stop where they are.
    match tasks.join_next().await {
        Some(Ok(outcome)) => outcome?,
        other => check!("L13", false, "a contender ended with {other:?}"),
    }
    let counts: Vec<_> = turns.iter().map(|turns| turns.load(Ordering::Relaxed)).collect();
    cx.note(format_args!("turns: {counts:?}"));
    Ok(counts)
}

/// Requires that each contender had at least a quarter of the largest share.
fn fair(counts: &[usize], most: usize) -> Outcome {
    let least = counts.iter().copied().min().unwrap_or_default();
    check!("L13", least >= most / 4, "while one had the lock {most} times another had it {least} times: {counts:?}");
    Ok(())
}

async fn nobody_is_passed_over(cx: Context) -> Outcome {
    const MOST: usize = 20;
    let clients = interleaved(&cx, 4, 8).await?;
    fair(&shares(&cx, clients, MOST).await?, MOST)
}

async fn a_handle_shares_with_itself(cx: Context) -> Outcome {
    const MOST: usize = 20;
    let clients = interleaved(&cx, 1, 8).await?;
    fair(&shares(&cx, clients, MOST).await?, MOST)
}
