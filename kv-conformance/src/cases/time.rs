//! Timeouts, and how a handle recovers when an endpoint hangs: [clause S3](kv_core::contract::CLAUSES#S3), and what
//! [clause W6](kv_core::contract::CLAUSES#W6) says of writes that cannot have left.
//!
//! An endpoint that hangs is a relay that accepts connections and passes nothing on.

use std::time::Duration;

use futures_util::future::join_all;
use kv_core::{Error, Kv};
use tokio::time::{Instant, timeout};

use crate::case::cases;
use crate::chaos::proxy::Proxy;
use crate::chaos::{Line, Link};
use crate::context::Context;
use crate::outcome::{Broke, Keeps as _, Outcome, check, refused};

cases! { "time":
    a_short_timeout_recovers ["S3", "A6"] needs [Faults] "With a timeout of 250 ms and a first endpoint that hangs, calls succeed again after a while, without a flood of connections."
    a_timeout_set_later_counts ["S3"] needs [Faults] "With a timeout of a second, given to the handle instead of its address, a call moves on from an endpoint that hangs."
    a_long_timeout_waits ["S3", "W6"] needs [Faults] "With a timeout of 20 s, writes alone and together succeed though the server takes 6 s to answer."
    dropped_calls_recover ["S3"] needs [Faults] "Callers that give up after a quarter of a second each find another endpoint when the first one hangs."
    a_new_handle_passes_over_what_hangs ["S3", "A6"] needs [Faults] "A handle that connects while its first endpoint hangs serves calls with a short timeout."
    refused_writes_were_not_applied ["W6", "A6"] needs [Faults] "Writes to a server that refuses connections are unavailable, never indeterminate, alone and together."
    queued_writes_were_not_applied ["W6"] needs [Faults] "Of many writes to a server that hears and does not answer, those that left are indeterminate, those that queued are unavailable."
}

/// Two endpoints with a relay before the first of them, and a handle that has used it.
async fn before_two(cx: &Context) -> Outcome<(Proxy, Kv)> {
    let endpoints = cx.faults()?.endpoints();
    let first = Proxy::start(endpoints[0].clone()).await?;
    let both = [first.endpoint().to_owned(), endpoints[1 % endpoints.len()].clone()];
    let kv = cx.faults()?.connect_to(&both).await?.scoped(cx.directory())?;
    kv.set("key", "1").await?;
    kv.get("key").await?;
    Ok((first, kv))
}

/// Repeats a read until so many reads in a row have succeeded, and returns how many have failed.
async fn served_again<F: Future<Output = bool> + Send>(
    cx: &Context,
    read: impl Fn() -> F + Send + Sync,
    what: &str,
) -> Outcome<usize> {
    const IN_A_ROW: usize = 10;
    let (began, mut failed, mut row) = (Instant::now(), 0, 0);
    while row < IN_A_ROW {
        let late = began.elapsed() > cx.patience() + cx.patience();
        check!("S3", !late, "{what}: {failed} reads have failed, the last {row} succeeded");
        if read().await {
            row += 1;
        } else {
            (row, failed) = (0, failed + 1);
        }
    }
    cx.note(format_args!("{what}: after {failed} reads that failed, {IN_A_ROW} succeeded"));
    Ok(failed)
}

/// Counts the connections to an endpoint that hangs while a handle is used. Occasional attempts are expected.
async fn few_connections(cx: &Context, hung: &Proxy, kv: &Kv) -> Outcome {
    const WHILE: Duration = Duration::from_secs(5);
    /// One attempt a second would be patient. More than twice as many are a flood.
    const MANY: usize = 12;
    let (began, before) = (Instant::now(), hung.counts().connections);
    while began.elapsed() < WHILE {
        let _ = kv.get("key").await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let made = hung.counts().connections - before;
    cx.note(format_args!("{made} connections to the endpoint that hangs in {WHILE:?}"));
    check!("S3", made <= MANY, "{made} connections were made to an endpoint that hangs, in {WHILE:?}");
    Ok(())
}

async fn a_short_timeout_recovers(cx: Context) -> Outcome {
    let (first, kv) = before_two(&cx).await?;
    let hasty = kv.with_timeout(Duration::from_millis(250));
    cx.note("the first endpoint hangs");
    first.stall();
    served_again(&cx, || async { hasty.get("key").await.is_ok() }, "with 250 ms").await?;
    served_again(&cx, || async { hasty.set("written", "").await.is_ok() }, "writes with 250 ms").await?;
    few_connections(&cx, &first, &hasty).await
}

async fn a_timeout_set_later_counts(cx: Context) -> Outcome {
    /// The call that finds out, and one that was in flight with it.
    const FEW: usize = 3;
    let (first, kv) = before_two(&cx).await?;
    let kv = kv.with_timeout(Duration::from_secs(1));
    cx.note("the first endpoint hangs");
    first.stall();
    let failed = served_again(&cx, || async { kv.get("key").await.is_ok() }, "with a second").await?;
    check!("S3", failed <= FEW, "{failed} reads of a second each went to an endpoint that hangs");
    Ok(())
}

async fn a_long_timeout_waits(cx: Context) -> Outcome {
    const ANSWER: Duration = Duration::from_secs(6);
    const TOGETHER: usize = 12;
    let only = Proxy::start(cx.faults()?.endpoints().swap_remove(0)).await?;
    let kv = cx.faults()?.connect_to(&[only.endpoint().to_owned()]).await?.scoped(cx.directory())?;
    let kv = kv.with_timeout(Duration::from_secs(20));
    kv.set("key", "").await?;
    for writes in [1, TOGETHER] {
        only.stall();
        let late = async {
            tokio::time::sleep(ANSWER).await;
            only.heal();
        };
        let writing = (0..writes).map(|number| {
            let kv = &kv;
            async move { kv.set(&format!("late/{number}"), "").await }
        });
        let (results, ()) = tokio::join!(join_all(writing), late);
        let failed: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).map(Error::to_string).collect();
        let what = "writes with 20 s failed though the server answered after";
        check!("S3", failed.is_empty(), "{} of {writes} {what} {ANSWER:?}: {}", failed.len(), failed[0]);
    }
    Ok(())
}

async fn dropped_calls_recover(cx: Context) -> Outcome {
    const ENOUGH: Duration = Duration::from_millis(250);
    let (first, kv) = before_two(&cx).await?;
    cx.note("the first endpoint hangs");
    first.stall();
    let read = || async { matches!(timeout(ENOUGH, kv.get("key")).await, Ok(Ok(_))) };
    served_again(&cx, read, "with callers that give up").await?;
    few_connections(&cx, &first, &kv.with_timeout(ENOUGH)).await
}

async fn a_new_handle_passes_over_what_hangs(cx: Context) -> Outcome {
    let endpoints = cx.faults()?.endpoints();
    let first = Proxy::start(endpoints[0].clone()).await?;
    first.stall();
    let both = [first.endpoint().to_owned(), endpoints[1 % endpoints.len()].clone()];
    let kv = cx.faults()?.connect_to(&both).await.keeps("S3")?.scoped(cx.directory())?;
    let hasty = kv.with_timeout(Duration::from_millis(250));
    served_again(&cx, || async { hasty.set("key", "").await.is_ok() }, "writes with 250 ms").await?;
    served_again(&cx, || async { hasty.get("key").await.is_ok() }, "with 250 ms").await?;
    few_connections(&cx, &first, &hasty).await
}

async fn refused_writes_were_not_applied(cx: Context) -> Outcome {
    const TOGETHER: usize = 40;
    let only = Proxy::start(cx.faults()?.endpoints().swap_remove(0)).await?;
    let kv = cx.faults()?.connect_to(&[only.endpoint().to_owned()]).await?.scoped(cx.directory())?;
    let kv = kv.with_timeout(Duration::from_secs(1));
    kv.set("key", "").await?;
    cx.note("the server no longer listens");
    drop(only);
    // Until the handle has noticed, a write may leave on a broken connection.
    let noticed = || async { Ok(kv.get("key").await.is_err().then_some(())) };
    cx.until("A6", "the connection is gone", noticed).await?;
    refused!("W6", kv.get("key").await, Error::Unavailable { .. });
    refused!("W6", kv.set("alone", "").await, Error::Unavailable { .. });
    let writing = (0..TOGETHER).map(|number| {
        let kv = &kv;
        async move { kv.set(&format!("together/{number}"), "").await }
    });
    for result in join_all(writing).await {
        refused!("W6", result, Error::Unavailable { .. });
    }
    Ok(())
}

async fn queued_writes_were_not_applied(cx: Context) -> Outcome {
    const TOGETHER: usize = 40;
    let link = Link::start(cx.faults()?.endpoints().swap_remove(0)).await?;
    let kv = cx.faults()?.connect_to(&[link.endpoint().to_owned()]).await?.scoped(cx.directory())?;
    let kv = kv.with_timeout(Duration::from_secs(2));
    kv.set("readable", "").await?;
    if !link.has_heard(b"readable") {
        cx.summarize("not judged: what is sent is encrypted".to_owned());
        return Ok(());
    }
    cx.note("the server reads, and does not answer");
    link.set(Line::Deaf);
    link.forget();
    let writing = (0..TOGETHER).map(|number| {
        let kv = &kv;
        async move { (number, kv.set(&format!("fate{number:02}x"), "").await) }
    });
    let fates = join_all(writing).await;
    // A write that has left the process may not have reached the relay yet.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut left = 0;
    for (number, fate) in fates {
        let heard = link.has_heard(format!("fate{number:02}x").as_bytes());
        left += usize::from(heard);
        match (&fate, heard) {
            (Err(Error::Indeterminate { .. }), true) | (Err(Error::Unavailable { .. }), false) => {}
            (fate, true) => return Err(Broke::new("W6", format!("a write that left unanswered gave {fate:?}"))),
            (fate, false) => return Err(Broke::new("W6", format!("a write that never left gave {fate:?}"))),
        }
    }
    cx.note(format_args!("{left} of {TOGETHER} writes have left"));
    Ok(())
}
