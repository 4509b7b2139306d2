//! Timeouts, and how a handle recovers when an endpoint hangs: [clause S3](kv_core::contract::CLAUSES#S3), and what
//! [clause W6](kv_core::contract::CLAUSES#W6) says of writes that cannot have left.
//!
//! An endpoint that hangs is a relay that accepts connections and passes nothing on.

use std::time::Duration;

use futures_util::future::join_all;
use kv_core::{Error, Kv, Value};
use tokio::time::{Instant, timeout};

use crate::case::cases;
use crate::chaos::proxy::Proxy;
use crate::chaos::{Line, Link};
use crate::context::Context;
use crate::outcome::{Broke, Keeps as _, Outcome, check, refused, same};

cases! { "time":
    a_short_timeout_recovers ["S3", "A6"] needs [Faults] "With a timeout of 250 ms and an endpoint that hangs, calls succeed again after a while, without a flood of connections."
    a_timeout_set_later_counts ["S3"] needs [Faults] "With a timeout of a second, given to the handle instead of its address, a call moves on from an endpoint that hangs."
    a_long_timeout_waits ["S3", "W6"] needs [Faults] "With a timeout of 20 s, writes alone and together succeed though the server takes 6 s to answer."
    dropped_calls_recover ["S3"] needs [Faults] "Callers that give up after a quarter of a second each find another endpoint when theirs hangs."
    a_new_handle_passes_over_what_hangs ["S3", "A6"] needs [Faults] "A handle that connects while one of its endpoints hangs serves calls with a short timeout."
    refused_writes_were_not_applied ["W6", "A6"] needs [Faults] "Writes to a server that refuses connections are unavailable, never indeterminate, alone and together."
    queued_writes_were_not_applied ["W6"] needs [Faults] "Of many writes to a server that hears and does not answer, those that left are indeterminate, those that queued are unavailable."
    tiny_timeouts_do_no_harm ["S3", "L7"] needs [Faults] "After thousands of calls with a timeout of a millisecond on a store that is well, the next call succeeds at once, and nothing is left."
    waits_move_on ["S3", "L4", "E4"] needs [Faults] "A wait for a lock, a watch and a renewal go on at another endpoint when the one that they use hangs."
    late_calls_name_their_endpoint ["A5"] needs [Faults] "The error of each of many calls to a server that does not answer names its endpoint, whether the call was sent or queued."
}

/// A relay before each of two endpoints, and a handle that has used one of them.
///
/// Which one it uses is not known. So each hangs once: after the first has, the handle uses the second.
async fn before_two(cx: &Context) -> Outcome<([Proxy; 2], Kv)> {
    let endpoints = cx.faults()?.endpoints();
    let relay = |number: usize| Proxy::start(endpoints[number % endpoints.len()].clone());
    let relays = [relay(0).await?, relay(1).await?];
    let both = relays.each_ref().map(|relay| relay.endpoint().to_owned());
    let kv = cx.faults()?.connect_to(&both).await?.scoped(cx.directory())?;
    kv.set("key", "1").await?;
    kv.get("key").await?;
    Ok((relays, kv))
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
    let (relays, kv) = before_two(&cx).await?;
    let hasty = kv.with_timeout(Duration::from_millis(250));
    for relay in &relays {
        cx.note(format_args!("{} hangs", relay.endpoint()));
        relay.stall();
        served_again(&cx, || async { hasty.get("key").await.is_ok() }, "with 250 ms").await?;
        served_again(&cx, || async { hasty.set("written", "").await.is_ok() }, "writes with 250 ms").await?;
        few_connections(&cx, relay, &hasty).await?;
        relay.heal();
    }
    Ok(())
}

async fn a_timeout_set_later_counts(cx: Context) -> Outcome {
    /// The call that finds out, and one that was in flight with it.
    const FEW: usize = 3;
    let (relays, kv) = before_two(&cx).await?;
    let kv = kv.with_timeout(Duration::from_secs(1));
    for relay in &relays {
        cx.note(format_args!("{} hangs", relay.endpoint()));
        relay.stall();
        let failed = served_again(&cx, || async { kv.get("key").await.is_ok() }, "with a second").await?;
        check!("S3", failed <= FEW, "{failed} reads of a second each went to an endpoint that hangs");
        relay.heal();
    }
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
    let (relays, kv) = before_two(&cx).await?;
    for relay in &relays {
        cx.note(format_args!("{} hangs", relay.endpoint()));
        relay.stall();
        let read = || async { matches!(timeout(ENOUGH, kv.get("key")).await, Ok(Ok(_))) };
        served_again(&cx, read, "with callers that give up").await?;
        few_connections(&cx, relay, &kv.clone().with_timeout(ENOUGH)).await?;
        relay.heal();
    }
    Ok(())
}

async fn a_new_handle_passes_over_what_hangs(cx: Context) -> Outcome {
    let endpoints = cx.faults()?.endpoints();
    let first = Proxy::start(endpoints[0].clone()).await?;
    first.stall();
    let both = [first.endpoint().to_owned(), endpoints[1 % endpoints.len()].clone()];
    // The order of endpoints is random, so some of these begin with the one that hangs.
    let mut last = None;
    for _ in 0..4 {
        let kv = cx.faults()?.connect_to(&both).await.keeps("S3")?.scoped(cx.directory())?;
        let hasty = kv.with_timeout(Duration::from_millis(250));
        served_again(&cx, || async { hasty.set("key", "").await.is_ok() }, "writes with 250 ms").await?;
        served_again(&cx, || async { hasty.get("key").await.is_ok() }, "with 250 ms").await?;
        last = Some(hasty);
    }
    if let Some(kv) = last { few_connections(&cx, &first, &kv).await } else { Ok(()) }
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
    let link = Link::start(cx.faults()?.endpoints().swap_remove(0))?;
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

async fn late_calls_name_their_endpoint(cx: Context) -> Outcome {
    const TOGETHER: usize = 40;
    let link = Link::start(cx.faults()?.endpoints().swap_remove(0))?;
    let kv = cx.faults()?.connect_to(&[link.endpoint().to_owned()]).await?.scoped(cx.directory())?;
    let kv = kv.with_timeout(Duration::from_secs(1));
    kv.set("key", "").await?;
    cx.note("the server hears, and does not answer");
    link.set(Line::Deaf);
    let calls = (0..TOGETHER).map(|number| {
        let kv = &kv;
        async move {
            match number % 2 {
                0 => kv.set(&format!("late/{number}"), "").await.map(drop),
                _ => kv.get(&format!("late/{number}")).await.map(drop),
            }
        }
    });
    for result in join_all(calls).await {
        let Err(error) = result else { return Err(Broke::new("A6", "a server that answers nothing was understood")) };
        check!(
            "A5",
            error.to_string().contains(link.endpoint()),
            "an error does not name {}: {error}",
            link.endpoint()
        );
    }
    Ok(())
}

async fn tiny_timeouts_do_no_harm(cx: Context) -> Outcome {
    const ROUNDS: usize = 300;
    let kv = cx.client().await?.kv().clone();
    kv.set("key", "1").await?;
    let before = cx.faults()?.census().await.map_err(|error| Broke { clause: None, what: error })?;
    let tiny = kv.clone().with_timeout(Duration::from_millis(1));
    for round in 0..ROUNDS {
        let (held, ttl) = (format!("held/{round}"), cx.long_ttl());
        // Whatever comes of them is right.
        let _ = tokio::join!(
            tiny.get("key"),
            tiny.get_all(""),
            tiny.keys(""),
            tiny.set("written", ""),
            tiny.update("key", Value::new("", 1)),
            tiny.txn().set("a", "").delete("b").commit(),
            tiny.watch("key", 0),
            tiny.observe(""),
            tiny.ping(),
            tiny.ephemeral_key(&held, ttl),
            tiny.try_lock(&held, ttl),
        );
        if round % 20 == 0 {
            let began = Instant::now();
            let index = kv.set("normal", "").await.keeps("S3")?;
            check!("S3", kv.get("normal").await.keeps("S3")?.index >= index, "a read is behind a write");
            cx.note(format_args!("round {round}: a write and a read took {:?}", began.elapsed()));
        }
    }
    let gone = || async {
        let now = cx.faults()?.census().await.map_err(|error| Broke { clause: None, what: error })?;
        let listed = kv.get_all("held/").await?.values.len();
        Ok((now.leases <= before.leases && listed == 0).then_some(()))
    };
    cx.until("L7", "what calls took that were given up is given back", gone).await
}

async fn waits_move_on(cx: Context) -> Outcome {
    let (server, holder) = (cx.faults()?.endpoints().swap_remove(0), cx.client().await?);
    let relays = [Proxy::start(server.clone()).await?, Proxy::start(server).await?];
    let endpoints: Vec<String> = relays.iter().map(|relay| relay.endpoint().to_owned()).collect();
    let kv = cx.faults()?.connect_to(&endpoints).await?.scoped(cx.directory())?;
    let client = cx.around(kv.clone());
    // Which of them the handle uses is not known: each hangs once.
    for (round, relay) in relays.iter().enumerate() {
        let lock = holder.lock("lock", cx.long_ttl()).await?;
        let member = kv.ephemeral_key(&format!("member/{round}"), cx.long_ttl()).await.keeps("S3")?;
        let mut events = client.watch("watched", 0).await?;
        let (waiter, ttl) = (kv.clone(), cx.long_ttl());
        let waiting = tokio::spawn(async move { waiter.lock("lock", ttl).await });
        // Long enough for it to stand in the queue.
        tokio::time::sleep(Duration::from_millis(500)).await;
        cx.note(format_args!("endpoint {round} hangs"));
        relay.stall();
        let index = holder.set("watched", round.to_string()).await?;
        holder.call("unlock", lock.unlock()).await?;
        let renewed = || async { Ok(member.renew().await.ok()) };
        cx.until("S3", "a lease is renewed", renewed).await?;
        let limit = cx.expiry() + cx.patience();
        same!("E4", events.next_within("E4", limit).await?.index, index, "the index of the event of round {round}");
        let next = tokio::time::timeout(limit, waiting).await;
        let next = next.map_err(|_| Broke::new("L4", "a lock is free, and its waiter does not get it"))?;
        next.map_err(|panic| Broke::new("L4", panic.to_string()))?.keeps("L4")?.unlock().await.keeps("L7")?;
        member.destroy().await.keeps("L2")?;
        relay.heal();
    }
    Ok(())
}
