//! The contract under faults: clauses [E4](kv_core::contract::CLAUSES#E4), [A6](kv_core::contract::CLAUSES#A6),
//! [W6](kv_core::contract::CLAUSES#W6) and [L4](kv_core::contract::CLAUSES#L4), with the faults that the fixture
//! offers.
//!
//! The victim is always the leader; a single server is its own leader.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use kv_core::{Error, Event, EventType, Kv, WatchHistory};

use crate::case::cases;
use crate::chaos::proxy::{Cut, Proxy};
use crate::chaos::{Cuts, weather};
use crate::client::{Client, Events};
use crate::context::Context;
use crate::outcome::{Broke, Keeps as _, Outcome, check, refused, same};

cases! { "faults":
    a_watch_survives_a_restart ["E4"] needs [Faults] "A watch continues after its server was killed and started again, without loss or repetition."
    a_watch_survives_a_pause ["E4", "A6"] needs [Faults] "A watch continues after its server was paused with its connections open."
    calls_end_while_no_server_serves ["A6", "A5"] needs [Faults] "While the store cannot serve, every call ends in time with an error that says so; afterwards the same client works."
    writes_report_their_fate ["W6"] needs [Faults] "Of writes in flight while the store is killed, those that succeeded are there and those reported as not applied are not."
    a_lock_survives_a_restart ["L4", "L5"] needs [Faults] "A restart takes no lock from its holder and gives it to no other."
    connections_cut ["R1", "R2", "W1", "W2", "W3", "W5", "W6", "E1", "E2", "E3", "E4", "E6", "L1", "L2", "L4", "L5"] needs [Faults] "All workloads go on while their connections are cut, truncated, stalled and delayed 500 times."
    an_endpoint_that_resets_is_asked_last ["S5", "W6"] needs [Faults] "While one of two endpoints accepts connections and resets them, as a port forwarder does for a server that is away, no read fails, and only writes that were in flight are indeterminate."
    a_wait_survives_a_restart ["L4"] needs [Faults] "A waiter gets the lock even if the store restarts during the wait."
}

async fn restart(cx: &Context) -> Outcome {
    let victim = cx.leader().await?;
    cx.hurt("kill the leader", cx.faults()?.kill(victim)).await?;
    cx.hurt("start it again", cx.faults()?.start_again(victim)).await
}

/// What a writer did: the last value of each key, and all returned indices.
#[derive(Default)]
struct Written {
    acknowledged: BTreeSet<u64>,
    unknown: usize,
}

/// Writes numbers to a few keys until it is stopped, despite failures.
async fn write_on(kv: Kv, mut stop: tokio::sync::oneshot::Receiver<()>) -> Outcome<Written> {
    let mut written = Written::default();
    for number in 0_u64.. {
        if stop.try_recv().is_ok() {
            break;
        }
        match kv.set(&format!("k/{}", number % 5), number.to_string()).await {
            Ok(index) => {
                written.acknowledged.insert(index);
            }
            Err(Error::Unavailable { .. }) => {}
            Err(Error::Indeterminate { .. }) => written.unknown += 1,
            Err(error) => return Err(error.into()),
        }
        tokio::task::yield_now().await;
    }
    Ok(written)
}

/// Reads events until the one that marks the end of the writes.
async fn collect(cx: &Context, events: &mut Events) -> Outcome<Vec<Event>> {
    let mut seen = Vec::new();
    loop {
        let event = events.next_within("E4", cx.expiry()).await?;
        if event.key == "k/done" {
            return Ok(seen);
        }
        seen.push(event);
    }
}

/// Runs a writer and a watch during a fault and judges the events of the watch.
async fn watched_through(cx: &Context, fault: impl Future<Output = Outcome>) -> Outcome {
    let (writer, watcher) = (cx.client().await?, cx.client().await?);
    let mut events = watcher.watch("k/", 0).await?;
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let writing = tokio::spawn(write_on(writer.kv().clone(), stopped));
    fault.await?;
    // The writer goes on until a write has succeeded after the fault.
    cx.until("A6", "the store serves again", || async { Ok(watcher.kv().set("after", "").await.ok()) }).await?;
    let _ = stop.send(());
    let written = writing.await.map_err(|panic| Broke::new("E4", panic.to_string()))??;
    cx.note(format!("{} writes succeeded, the fate of {} is unknown", written.acknowledged.len(), written.unknown));
    set_in_the_end(cx, &writer, "k/done").await?;

    let seen = collect(cx, &mut events).await?;
    cx.note(format!("{} events were seen", seen.len()));
    check!("E2", seen.is_sorted_by_key(|event| event.index), "the indices of the events go backwards");
    let distinct: BTreeSet<_> = seen.iter().map(|event| (event.index, event.key.as_str())).collect();
    same!("E4", distinct.len(), seen.len(), "how many of the events are different");
    if cx.limits().watch_history == WatchHistory::Every {
        let indices: BTreeSet<u64> = seen.iter().map(|event| event.index).collect();
        let lost: Vec<_> = written.acknowledged.difference(&indices).collect();
        check!("E4", lost.is_empty(), "the events of these writes were lost: {lost:?}");
    }
    let mut rebuilt = BTreeMap::new();
    for event in seen {
        let known = rebuilt.insert(event.key.clone(), (event.data.clone(), event.index)).is_some();
        let expected = if known { EventType::Update } else { EventType::Create };
        same!("E2", event.event_type, expected, "the type of the event of {:?} at {}", event.key, event.index);
    }
    let stored = watcher.get_all("k/").await?.values;
    let stored: BTreeMap<_, _> = stored.into_iter().filter(|(key, _)| key != "k/done").collect();
    let stored: BTreeMap<_, _> = stored.into_iter().map(|(key, value)| (key, (value.data, value.index))).collect();
    same!("E4", rebuilt, stored, "the state that the events add up to");
    Ok(())
}

/// Sets a key, with retries until a write certainly succeeded.
async fn set_in_the_end(cx: &Context, client: &Client, key: &str) -> Outcome {
    cx.until("A6", "a write succeeds", || async { Ok(client.set(key, "").await.ok()) }).await.map(drop)
}

async fn a_watch_survives_a_restart(cx: Context) -> Outcome {
    watched_through(&cx, restart(&cx)).await
}

async fn a_watch_survives_a_pause(cx: Context) -> Outcome {
    let fault = async {
        let (victim, other) = (cx.leader().await?, cx.client().await?);
        cx.hurt("pause the leader", cx.faults()?.pause(victim)).await?;
        // The pause lasts until a call notices it. In a cluster, another member answers that call.
        let _ = other.get("k/0").await;
        cx.hurt("let it go on", cx.faults()?.resume(victim)).await
    };
    watched_through(&cx, fault).await
}

async fn calls_end_while_no_server_serves(cx: Context) -> Outcome {
    let kv = cx.client().await?;
    kv.set("a", "1").await?;
    let members = cx.faults()?.endpoints().len();
    for kill in [true, false] {
        for member in 0..members {
            let fault = if kill { cx.faults()?.kill(member) } else { cx.faults()?.pause(member) };
            cx.hurt(if kill { "kill a member" } else { "pause a member" }, fault).await?;
        }
        let began = Instant::now();
        refused!("A6", kv.get("a").await, Error::Unavailable { .. });
        let written = kv.set("a", "2").await;
        refused!("A6", written, Error::Unavailable { .. } | Error::Indeterminate { .. });
        let pinged = kv.call("ping", kv.kv().ping()).await;
        refused!("A6", pinged, Error::Unavailable { .. });
        // Three calls must end within their timeouts. The rest of the limit allows for a busy machine.
        let limit = Kv::DEFAULT_TIMEOUT * 3 + cx.patience();
        check!("A6", began.elapsed() < limit, "three calls took {:?}", began.elapsed());
        // All members are healed at once, because a member of a cluster serves only when most of them do.
        let faults = cx.faults()?;
        let heal =
            |member| async move { if kill { faults.start_again(member).await } else { faults.resume(member).await } };
        let healing = futures_util::future::try_join_all((0..members).map(heal));
        cx.hurt("heal them all", async { healing.await.map(drop) }).await?;
        let read = || async { Ok(kv.get("a").await.ok()) };
        cx.until("A6", "the same client reads again", read).await?;
    }
    Ok(())
}

async fn writes_report_their_fate(cx: Context) -> Outcome {
    let (writer, reader) = (cx.client().await?, cx.client().await?);
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let kv = writer.kv().clone();
    let writing = tokio::spawn(async move {
        let mut fates = Vec::new();
        while stopped.try_recv().is_err() {
            let round = fates.len();
            let burst = (0..8).map(|lane| {
                let (kv, key) = (&kv, format!("{round}-{lane}"));
                async move {
                    let result = kv.set(&key, "").await;
                    (key, result)
                }
            });
            fates.push(futures_util::future::join_all(burst).await);
        }
        fates
    });
    restart(&cx).await?;
    set_in_the_end(&cx, &reader, "after").await?;
    let _ = stop.send(());
    let fates = writing.await.map_err(|panic| Broke::new("W6", panic.to_string()))?;
    let stored = reader.get_all("").await.keeps("R2")?.values;
    let mut outcomes: BTreeMap<&str, usize> = BTreeMap::new();
    for (key, fate) in fates.into_iter().flatten() {
        let found = stored.get(&key).map(|value| value.index);
        let outcome = match fate {
            Ok(index) => {
                same!("W6", found, Some(index), "the index of {key:?}, whose write succeeded");
                "ok"
            }
            Err(error @ Error::Unavailable { .. }) => {
                check!("W6", found.is_none(), "{key:?} is there, but its write was not applied: {error}");
                "unavailable"
            }
            Err(Error::Indeterminate { .. }) => "indeterminate",
            Err(error) => return Err(Broke::new("W6", format!("a write failed with another error: {error}"))),
        };
        *outcomes.entry(outcome).or_default() += 1;
    }
    cx.note(format!("outcomes: {outcomes:?}"));
    Ok(())
}

async fn a_lock_survives_a_restart(cx: Context) -> Outcome {
    let (holder, other) = (cx.client().await?, cx.client().await?);
    let lock = holder.lock("lock", cx.long_ttl()).await?;
    restart(&cx).await?;
    set_in_the_end(&cx, &other, "after").await?;
    let second = other.try_lock("lock", cx.long_ttl()).await?;
    check!("L4", second.is_none(), "the lock was given to a second holder: {second:?}");
    holder.call("renew", lock.renew()).await.keeps("L4")?;
    let guarded = holder.kv().txn().held(&lock).set("guarded", "");
    holder.commit(guarded).await.keeps("L5")?;
    let token = lock.token();
    holder.call("unlock", lock.unlock()).await.keeps("L7")?;
    let next = other.lock("lock", cx.long_ttl()).await?;
    check!("L5", next.token() > token, "the token went from {token} to {}", next.token());
    other.call("unlock", next.unlock()).await?;
    Ok(())
}

async fn a_wait_survives_a_restart(cx: Context) -> Outcome {
    let (holder, waiter) = (cx.client().await?, cx.client().await?);
    let lock = holder.lock("lock", cx.long_ttl()).await?;
    let ttl = cx.ttl();
    let waiting = tokio::spawn({
        let waiter = waiter.clone();
        async move {
            loop {
                match waiter.lock("lock", ttl).await {
                    // The server was gone before the wait began. What the request may have left behind lapses.
                    Err(Error::Unavailable { .. } | Error::Indeterminate { .. }) => {}
                    result => return result,
                }
            }
        }
    });
    restart(&cx).await?;
    set_in_the_end(&cx, &holder, "after").await?;
    holder.call("unlock", lock.unlock()).await.keeps("L7")?;
    let next = tokio::time::timeout(cx.expiry(), waiting).await;
    let next = next.map_err(|_| Broke::new("L4", "the lock is free, but its waiter does not get it"))?;
    let next = next.map_err(|panic| Broke::new("L4", panic.to_string()))?.keeps("L4")?;
    waiter.call("unlock", next.unlock()).await?;
    Ok(())
}

async fn connections_cut(cx: Context) -> Outcome {
    weather(&cx, cx.effort(), || Cuts::new(&cx)).await
}

async fn an_endpoint_that_resets_is_asked_last(cx: Context) -> Outcome {
    const TASKS: usize = 8;
    const CALLS: usize = 20;
    let endpoints = cx.faults()?.endpoints();
    let relay = |number: usize| Proxy::start(endpoints[number % endpoints.len()].clone());
    let relays = [relay(0).await?, relay(1).await?];
    let both = relays.each_ref().map(|relay| relay.endpoint().to_owned());
    let kv = cx.faults()?.connect_to(&both).await?.scoped(cx.directory())?;
    kv.set("key", "").await?;
    // Which of them the handle uses is not known: each has its turn.
    for relay in &relays {
        cx.note(format_args!("{} resets every connection", relay.endpoint()));
        relay.refuse();
        relay.cut(Cut::Reset);
        let calling = (0..TASKS).map(|task| {
            let kv = &kv;
            async move {
                let mut unknown = 0;
                for call in 0..CALLS {
                    match kv.set(&format!("{task}/{call}"), "").await {
                        Err(Error::Indeterminate { .. }) => unknown += 1,
                        result => drop(result.keeps("S5")?),
                    }
                    kv.get("key").await.keeps("S5")?;
                }
                Outcome::Ok(unknown)
            }
        });
        let unknown: usize = futures_util::future::try_join_all(calling).await?.into_iter().sum();
        cx.note(format_args!("{unknown} of {} writes are indeterminate", TASKS * CALLS));
        check!("S5", unknown <= TASKS, "{unknown} writes of {TASKS} tasks are indeterminate");
        relay.heal();
    }
    Ok(())
}
