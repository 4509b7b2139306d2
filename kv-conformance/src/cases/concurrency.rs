//! Concurrent clients: their operations are recorded and judged afterwards.
//!
//! Longer than most files: it has one short function for each case of one subject.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use kv_core::{Error, Event, Value};
use tokio::sync::mpsc::unbounded_channel;

use crate::case::cases;
use crate::client::{Client, Events};
use crate::context::Context;
use crate::judge::{self, Change, Completeness, History, Op, Tenure, judge_events, judge_registers, judge_tenures};
use crate::outcome::{Broke, Keeps as _, Outcome, all_end, check, refused, same};
use crate::random::Random;

cases! { "concurrency":
    registers_are_linearizable ["R1", "W1", "W2", "W3"] "Reads, writes, swaps and removals by many clients have an order that explains every answer."
    one_of_many_updates_wins ["W2"] "Of concurrent updates from one index exactly one is applied."
    one_of_many_creations_wins ["W2", "L1"] "Of concurrent creations of one key, plain or ephemeral, exactly one succeeds."
    one_of_many_removals_wins ["W3"] "Of concurrent removals at one index exactly one succeeds."
    counters_lose_nothing ["W2"] "A counter that many increment by compare-and-swap counts every increment."
    transfers_keep_the_total ["W5", "R2"] "Concurrent transfers between accounts never change the total that any client reads."
    requests_at_once_are_kept_apart ["R1", "W1", "W2", "W3"] "Each of many concurrent requests of one client gets its own answer."
    a_watch_is_the_history ["E1", "E2", "E3"] "During concurrent writes a watch delivers exactly what was written, in order and complete."
    observe_has_no_gap ["E6", "R2"] "A listing and the events after it add up to the state, whenever the observation began."
    a_lock_has_one_holder ["L4", "L5"] "Of many contenders one at a time holds a lock, with increasing tokens."
    guarded_writes_are_in_order ["L5", "W5"] "Writes guarded by a lock are applied in the order of its holders."
}

/// Runs one task per client concurrently and returns the first failure.
async fn at_once<F: Future<Output = Outcome> + Send + 'static>(
    cx: &Context,
    clients: usize,
    task: impl Fn(usize, Client) -> F + Send + Sync,
) -> Outcome {
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..clients {
        tasks.spawn(task(number, cx.client().await?));
    }
    all_end(&mut tasks).await.map(drop)
}

async fn registers_are_linearizable(cx: Context) -> Outcome {
    const KEYS: [&str; 3] = ["x", "y", "z"];
    for round in 0..cx.effort() {
        let history = History::new();
        let directory = format!("round-{round}");
        at_once(&cx, 4, |number, client| {
            let mut random = Random::new(cx.seed(), u64::from(round) * 100 + number as u64);
            let (history, directory) = (history.clone(), directory.clone());
            async move {
                let kv = client.scoped(&directory)?.kv().clone();
                let mut seen: HashMap<&str, u64> = HashMap::new();
                for step in 0..40 {
                    let key = KEYS[random.below(3) as usize];
                    let data = format!("{number}.{step}");
                    let last = seen.get(key).copied().unwrap_or_default();
                    let op = match random.below(10) {
                        0..=3 => Op::Get,
                        4 => Op::Set(data.into()),
                        5..=7 => Op::Update(Value::new(data, last)),
                        8 => Op::Remove(last),
                        _ => Op::Delete,
                    };
                    match history.run(number, &kv, key, op).await? {
                        judge::Outcome::Found(Value { index, .. }) | judge::Outcome::Wrote(index) => {
                            seen.insert(key, index);
                        }
                        judge::Outcome::Absent | judge::Outcome::Deleted => drop(seen.remove(key)),
                        judge::Outcome::Conflict | judge::Outcome::NotApplied | judge::Outcome::Unknown => {}
                    }
                }
                Ok(())
            }
        })
        .await?;
        judge_registers(&history.records())?;
    }
    Ok(())
}

async fn clients(cx: &Context, count: usize) -> Outcome<Vec<Client>> {
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(cx.client().await?);
    }
    Ok(clients)
}

async fn one_of_many_updates_wins(cx: Context) -> Outcome {
    let clients = clients(&cx, 8).await?;
    let mut index = clients[0].set("a", "begin").await?;
    for round in 0..10 {
        let racing = clients.iter().enumerate().map(|(number, client)| async move {
            (number, client.update("a", format!("{round} by {number}"), index).await)
        });
        let mut winners = Vec::new();
        for (number, result) in join_all(racing).await {
            match result {
                Ok(index) => winners.push((number, index)),
                Err(Error::Conflict { .. }) => {}
                Err(error) => return Err(error).keeps("W2"),
            }
        }
        check!("W2", winners.len() == 1, "from index {index} these won: {winners:?}");
        let (winner, won) = winners[0];
        let found = clients[(winner + 1) % clients.len()].get("a").await?;
        same!("W2", found, Value::new(format!("{round} by {winner}"), won), "the key after the race");
        index = won;
    }
    Ok(())
}

async fn one_of_many_creations_wins(cx: Context) -> Outcome {
    let clients = clients(&cx, 8).await?;
    let ttl = cx.long_ttl();
    for round in 0..8 {
        let racing = clients.iter().enumerate().map(|(number, client)| async move {
            if number % 2 == round % 2 || round % 4 == 3 {
                client.ephemeral_key("a", ttl).await.map(Some)
            } else {
                client.update("a", number.to_string(), 0).await.map(|_| None)
            }
        });
        let (mut winners, mut leases) = (0, Vec::new());
        for result in join_all(racing).await {
            match result {
                Ok(lease) => {
                    winners += 1;
                    leases.extend(lease);
                }
                Err(Error::Conflict { .. }) => {}
                Err(error) => return Err(error).keeps("W2"),
            }
        }
        let clause = if leases.is_empty() { "W2" } else { "L1" };
        check!(clause, winners == 1, "in round {round} {winners} created the same key");
        match leases.pop() {
            Some(lease) => clients[0].call("destroy it", lease.destroy()).await.keeps("L2")?,
            None => clients[0].delete("a").await?,
        }
    }
    Ok(())
}

async fn one_of_many_removals_wins(cx: Context) -> Outcome {
    let clients = clients(&cx, 6).await?;
    for round in 0..8 {
        let index = clients[0].set("a", "same").await?;
        let results = join_all(clients.iter().map(|client| client.remove("a", index))).await;
        let winners = results.iter().filter(|result| result.is_ok()).count();
        for result in results {
            if result.is_err() {
                refused!("W3", result, Error::Conflict { key } if key == "a");
            }
        }
        check!("W3", winners == 1, "in round {round} {winners} removed the key at index {index}");
    }
    Ok(())
}

async fn counters_lose_nothing(cx: Context) -> Outcome {
    const EACH: usize = 10;
    let kv = cx.client().await?;
    kv.set("counter", "0").await?;
    at_once(&cx, 4, |_, client| async move {
        for _ in 0..EACH {
            loop {
                let read = client.get("counter").await.keeps("W2")?;
                let count: usize = String::from_utf8_lossy(&read.data).parse().unwrap_or_default();
                match client.update("counter", (count + 1).to_string(), read.index).await {
                    Ok(_) => break,
                    Err(Error::Conflict { .. }) => {}
                    Err(error) => return Err(error).keeps("W2"),
                }
            }
        }
        Ok(())
    })
    .await?;
    same!("W2", kv.get("counter").await?.data, (4 * EACH).to_string(), "the counter");
    Ok(())
}

fn amount(value: &Value) -> i64 {
    String::from_utf8_lossy(&value.data).parse().unwrap_or(i64::MIN)
}

async fn transfers_keep_the_total(cx: Context) -> Outcome {
    const ACCOUNTS: u32 = 3;
    let kv = cx.client().await?;
    let all = |transaction, number| kv_core::TxnBuilder::set(transaction, &format!("account/{number}"), "100");
    kv.commit((0..ACCOUNTS).fold(kv.kv().txn(), all)).await?;
    let total = |values: &BTreeMap<String, Value>| values.values().map(amount).sum::<i64>();
    let working = at_once(&cx, 4, |number, client| {
        let mut random = Random::new(cx.seed(), number as u64);
        async move {
            let mut done = 0;
            while done < 12 {
                let (from, to) = (random.below(ACCOUNTS), random.below(ACCOUNTS));
                if from == to {
                    continue;
                }
                let (from, to) = (format!("account/{from}"), format!("account/{to}"));
                let (a, b) = (client.get(&from).await?, client.get(&to).await?);
                let moved = i64::from(random.below(20));
                let transaction = client.kv().txn().check(&from, a.index).check(&to, b.index);
                let transaction = transaction.set(&from, (amount(&a) - moved).to_string());
                match client.commit(transaction.set(&to, (amount(&b) + moved).to_string())).await {
                    Ok(_) => done += 1,
                    Err(Error::Conflict { .. }) => {}
                    Err(error) => return Err(error).keeps("W5"),
                }
            }
            Ok(())
        }
    });
    let watching = async {
        let client = cx.client().await?;
        loop {
            let values = client.get_all("account/").await?.values;
            same!("R2", (values.len(), total(&values)), (3, 300), "the accounts and their total");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        worked = working => worked?,
        watched = watching => return watched,
    }
    same!("W5", total(&kv.get_all("account/").await?.values), 300, "the total at the end");
    Ok(())
}

async fn requests_at_once_are_kept_apart(cx: Context) -> Outcome {
    let kv = cx.client().await?;
    let one = |number: usize| {
        let kv = &kv;
        async move {
            let (key, data) = (format!("k{number}"), format!("v{number}"));
            refused!("R1", kv.get(&key).await, Error::NotFound { key: named } if *named == key);
            let created = kv.update(&key, data.clone(), 0).await.keeps("W2")?;
            same!("R1", kv.get(&key).await.keeps("R1")?, Value::new(data.clone(), created), "the value of {key}");
            let written = kv.set(&key, data.clone()).await?;
            check!("W1", written > created, "a write of {key} after index {created} has index {written}");
            refused!("W2", kv.update(&key, "stale", created).await, Error::Conflict { key: told } if *told == key);
            same!("R1", kv.get(&key).await.keeps("R1")?, Value::new(data, written), "the value of {key}");
            // Other keys share the prefix, such as `k1` and `k10`.
            let listed = kv.get_all(&key).await?.values;
            check!("R1", listed.get(&key).is_some_and(|value| value.index == written), "{key} is listed as {listed:?}");
            refused!("W3", kv.remove(&key, created).await, Error::Conflict { key: told } if *told == key);
            kv.remove(&key, written).await.keeps("W3")?;
            refused!("R1", kv.get(&key).await, Error::NotFound { key: named } if *named == key);
            Outcome::Ok(())
        }
    };
    try_join_all((0..100).map(one)).await?;
    Ok(())
}

/// Writes to four keys with all verbs and records what was acknowledged.
async fn write_at_random(client: Client, mut random: Random, name: usize, changes: Arc<Mutex<Vec<Change>>>) -> Outcome {
    let note = |key: &str, data: String, index: u64| {
        let change = Change { key: key.to_owned(), data: data.into(), index };
        changes.lock().unwrap_or_else(PoisonError::into_inner).push(change);
    };
    for step in 0..30 {
        let key = format!("k{}", random.below(4));
        let data = format!("{name}.{step}");
        match random.below(8) {
            0 => client.delete(&key).await?,
            1 => client.delete_tree("t").await?,
            2 => {
                let below = format!("t/{}", random.below(3));
                let transaction = client.kv().txn().set(&key, data.clone()).set(&below, data.clone());
                let index = client.commit(transaction).await?.unwrap_or_default();
                note(&key, data.clone(), index);
                note(&below, data, index);
            }
            _ => {
                let index = client.set(&key, data.clone()).await?;
                note(&key, data, index);
            }
        }
    }
    Ok(())
}

/// Reads events until the one at `index`, which is the last.
async fn read_until(events: &mut Events, index: u64) -> Outcome<Vec<Event>> {
    let mut read = Vec::new();
    loop {
        let event = events.next("E1").await?;
        let last = event.key == "last" && event.index == index;
        read.push(event);
        if last {
            return Ok(read);
        }
    }
}

async fn a_watch_is_the_history(cx: Context) -> Outcome {
    let (kv, watcher) = (cx.client().await?, cx.client().await?);
    for round in 0..cx.effort() {
        let before = kv.get_all("").await?.values;
        let mut events = watcher.watch("", 0).await?;
        let changes: Arc<Mutex<Vec<Change>>> = Arc::default();
        let last = async {
            at_once(&cx, 3, |number, client| {
                let random = Random::new(cx.seed(), u64::from(round) * 100 + number as u64);
                write_at_random(client, random, number, changes.clone())
            })
            .await?;
            Ok(kv.set("last", round.to_string()).await?)
        };
        // The watch is read while they write, so that it cannot fall behind.
        let (sender, mut receiver) = tokio::sync::watch::channel(None);
        let reading = async {
            let mut read = Vec::new();
            let last = loop {
                let last = *receiver.borrow_and_update();
                if let Some(last) = last {
                    break last;
                }
                tokio::select! {
                    biased;
                    _ = receiver.changed() => {}
                    event = events.next("E1") => read.push(event?),
                }
            };
            if !read.iter().any(|event| event.key == "last" && event.index == last) {
                read.extend(read_until(&mut events, last).await?);
            }
            Outcome::Ok(read)
        };
        let writing = async {
            let last: Outcome<u64> = last.await;
            sender.send_replace(Some(last.clone()?));
            last
        };
        let (_, read) = tokio::try_join!(writing, reading)?;
        let mut changes = changes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        changes.sort_by_key(|change| change.index);
        let after = kv.get_all("").await?.values;
        judge_events(&before, &read, &changes, &after, cx.limits().watch_history.into())?;
    }
    Ok(())
}

async fn observe_has_no_gap(cx: Context) -> Outcome {
    let kv = cx.client().await?;
    for round in 0..cx.effort() {
        let seed = |number: usize| Random::new(cx.seed(), u64::from(round) * 100 + number as u64);
        let changes: Arc<Mutex<Vec<Change>>> = Arc::default();
        let writing = at_once(&cx, 3, |number, client| write_at_random(client, seed(number), number, changes.clone()));
        // They keep up while others write: a store may forget what nobody reads.
        let mut readers = tokio::task::JoinSet::new();
        let observing = async {
            let mut observed = Vec::new();
            let mut random = seed(50);
            for number in 0..10 {
                let client = cx.client().await?;
                let (listing, mut events) = client.observe(if number % 2 == 0 { "" } else { "k" }).await.keeps("E6")?;
                let (sender, read) = unbounded_channel();
                readers.spawn(async move {
                    let mut goes_on = true;
                    while goes_on {
                        let event = events.next("E6").await;
                        goes_on = event.is_ok() & sender.send(event).is_ok();
                    }
                });
                observed.push((listing, read));
                tokio::time::sleep(Duration::from_millis(random.below(4).into())).await;
            }
            Outcome::Ok(observed)
        };
        let ((), observed) = tokio::try_join!(writing, observing)?;
        let last = kv.set("last", round.to_string()).await?;
        // Its key is below the other prefix, too.
        let k_last = kv.set("k-last", round.to_string()).await?;
        let after = kv.get_all("").await?.values;
        for (number, (listing, mut events)) in observed.into_iter().enumerate() {
            let (prefix, end) = if number % 2 == 0 { ("", last) } else { ("k", k_last) };
            let mut read: Vec<Event> = Vec::new();
            while read.last().is_none_or(|event| event.index != end) {
                let Some(event) = events.recv().await else { return Err(Broke::new("E6", "a watch ended")) };
                let event = event?;
                let later = event.index > listing.index;
                check!("E6", later, "an event that the listing at {} covers: {event:?}", listing.index);
                read.push(event);
            }
            let mut expected = after.clone();
            expected.retain(|key, _| key.starts_with(prefix) && (prefix == "k" || key != "k-last"));
            if prefix.is_empty()
                && let Some(before) = listing.values.get("k-last")
            {
                expected.insert("k-last".into(), before.clone());
            }
            judge_events(&listing.values, &read, &[], &expected, Completeness::Latest)
                .map_err(|broke| Broke { clause: Some("E6"), ..broke })?;
        }
    }
    Ok(())
}

async fn a_lock_has_one_holder(cx: Context) -> Outcome {
    let history = History::new();
    let tenures: Arc<Mutex<Vec<Tenure>>> = Arc::default();
    let ttl = cx.long_ttl();
    at_once(&cx, 5, |number, client| {
        let (history, tenures) = (history.clone(), tenures.clone());
        let mut random = Random::new(cx.seed(), number as u64);
        async move {
            let mut done = 0;
            while done < 6 {
                let lock = if random.below(3) == 0 {
                    client.kv().try_lock("lock", ttl).await.keeps("L4")?
                } else {
                    Some(client.lock("lock", ttl).await.keeps("L4")?)
                };
                let Some(lock) = lock else {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    continue;
                };
                let given = history.moment();
                if random.below(2) == 0 {
                    tokio::time::sleep(Duration::from_millis(random.below(3).into())).await;
                }
                let tenure = Tenure { client: number, token: lock.token(), given, returned: history.moment() };
                tenures.lock().unwrap_or_else(PoisonError::into_inner).push(tenure);
                client.call("unlock", lock.unlock()).await.keeps("L7")?;
                done += 1;
            }
            Ok(())
        }
    })
    .await?;
    let tenures = tenures.lock().unwrap_or_else(PoisonError::into_inner);
    same!("L4", tenures.len(), 30, "the number of tenures");
    judge_tenures(&tenures)
}

async fn guarded_writes_are_in_order(cx: Context) -> Outcome {
    let (kv, ttl) = (cx.client().await?, cx.long_ttl());
    kv.set("tokens", "").await?;
    at_once(&cx, 4, |_, client| async move {
        for _ in 0..5 {
            let lock = client.lock("lock", ttl).await.keeps("L4")?;
            // A read and then a write without a check of the index. Only the lock excludes other writers.
            let read = client.get("tokens").await?;
            let tokens = format!("{} {}", String::from_utf8_lossy(&read.data), lock.token());
            client.commit(client.kv().txn().held(&lock).set("tokens", tokens)).await.keeps("L5")?;
            client.call("unlock", lock.unlock()).await.keeps("L7")?;
        }
        Ok(())
    })
    .await?;
    let written = kv.get("tokens").await?;
    let text = String::from_utf8_lossy(&written.data).into_owned();
    let tokens: Vec<u64> = text.split_whitespace().filter_map(|token| token.parse().ok()).collect();
    same!("L4", tokens.len(), 20, "the number of tokens that were written, one in each tenure: {text}");
    check!("L5", tokens.is_sorted_by(|a, b| a < b), "the tokens of the writes do not grow: {text}");
    Ok(())
}
