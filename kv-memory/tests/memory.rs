//! What only the memory store has: names, tokio's clock, a bounded history.

use std::sync::Arc;
use std::time::Duration;

use kv_core::{Error, Kv, Result, connect};
use kv_memory::MemoryBackend;
use tokio::time::Instant;

fn private() -> Kv {
    Kv::new(Arc::new(MemoryBackend::new()))
}

#[tokio::test]
async fn a_name_is_one_store_until_its_last_handle_is_gone() -> Result<()> {
    let first = connect("memory://shared").await?;
    let second = connect("memory://shared/app").await?;
    first.set("app/a", "1").await?;
    assert_eq!(second.get("a").await?.data, "1");
    assert!(connect("memory://other").await?.get("app/a").await.is_err_and(|error| error.is_key_not_found()));

    drop(first);
    let watch = second.watch("", 0).await?;
    drop(second);
    let third = connect("memory://shared").await?;
    assert_eq!(third.get("app/a").await?.data, "1", "a watch holds the store too");
    drop((watch, third));
    assert_eq!(connect("memory://shared").await?.get_all("").await?.values.len(), 0);
    Ok(())
}

#[tokio::test]
async fn a_nameless_store_is_private() -> Result<()> {
    let (first, second) = (connect("memory://").await?, connect("memory://").await?);
    first.set("a", "1").await?;
    assert!(second.get("a").await.is_err_and(|error| error.is_key_not_found()));
    Ok(())
}

#[tokio::test]
async fn any_name_is_a_store_of_its_own() -> Result<()> {
    let names =
        ["memory://test.1", "memory://crate::x", "memory://1", "memory://0.0.0.1", "memory://a,b", "memory://a:1"];
    let mut stores = Vec::new();
    for name in names {
        let kv = connect(name).await?;
        assert!(kv.get("name").await.is_err_and(|error| error.is_key_not_found()), "{name} is another's");
        kv.set("name", name).await?;
        stores.push(kv);
    }
    for name in names {
        assert_eq!(connect(name).await?.get("name").await?.data, name);
    }
    Ok(())
}

#[tokio::test]
async fn an_address_that_a_memory_store_cannot_serve_is_refused() {
    for (address, part) in [
        ("memory://user:secret@a", "no users"),
        ("memory://?history=0", "`history`"),
        ("memory://?history=many", "`history`"),
        ("memory://?size=3", "`size`"),
        ("memory://?foreign-write=maybe", "`foreign-write`"),
    ] {
        let error = connect(address).await.expect_err(address);
        assert!(error.to_string().contains(part), "{address}: {error}");
        assert!(!error.to_string().contains("secret"), "{address}: {error}");
    }
    let _kept = connect("memory://sized?history=3").await.expect("new");
    for other in ["memory://sized?history=4", "memory://sized?history=3&foreign-write=detaches"] {
        let error = connect(other).await.expect_err("it has other parameters");
        assert!(error.to_string().contains("history=3&foreign-write=keeps"), "{error}");
    }
    let _same = connect("memory://sized?foreign-write=keeps").await.expect("the size may be left out");
}

#[tokio::test(start_paused = true)]
async fn a_paused_clock_lapses_leases_at_once_and_exactly() -> Result<()> {
    let kv = private();
    let mut watch = kv.watch("", 0).await?;
    let member = kv.ephemeral_key("member", Duration::from_secs(3600)).await?;
    let began = Instant::now();
    let _created = watch.next().await;
    let gone = watch.next().await.expect("goes on")?;
    assert_eq!(gone.event_type, kv_core::EventType::Delete);
    assert!(began.elapsed() >= Duration::from_secs(3600) && began.elapsed() < Duration::from_secs(3601));
    assert!(member.set("late").await.is_err_and(|error| error.is_lost()));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn hold_renews_for_as_long_as_it_takes() -> Result<()> {
    let kv = private();
    let lock = kv.lock("lock", Duration::from_secs(3)).await?;
    lock.hold(tokio::time::sleep(Duration::from_secs(3600))).await?;
    lock.unlock().await
}

#[tokio::test(start_paused = true)]
async fn the_next_waiter_comes_after_the_holder_lapses() -> Result<()> {
    let kv = private();
    let first = kv.lock("lock", Duration::from_secs(10)).await?;
    // Its time to live is shorter than the first one's, and its own end must be noticed as well.
    let second = kv.lock("lock", Duration::from_secs(1)).await?;
    let third = kv.lock("lock", Duration::from_secs(1)).await?;
    assert!(first.token() < second.token() && second.token() < third.token());
    assert!(first.renew().await.is_err_and(|error| error.is_lost()));
    assert!(second.renew().await.is_err_and(|error| error.is_lost()));
    third.unlock().await
}

#[tokio::test]
async fn waiters_come_in_the_order_they_asked() -> Result<()> {
    let kv = private();
    let ttl = Duration::from_secs(60);
    let held = kv.lock("lock", ttl).await?;
    let mut waiting = Vec::new();
    for number in 0..50 {
        let kv = kv.clone();
        let mut wait = Box::pin(async move { kv.lock("lock", ttl).await.map(|lock| (number, lock)) });
        // Polled once, it is in the queue.
        assert!(futures_util::poll!(&mut wait).is_pending());
        waiting.push(wait);
    }
    // Every third waiter gives up, and the others move up.
    let mut number = 0;
    waiting.retain(|_| {
        number += 1;
        number % 3 != 0
    });
    held.unlock().await?;
    let mut order = Vec::new();
    for wait in waiting {
        let (number, lock) = wait.await?;
        order.push((number, lock.token()));
        lock.unlock().await?;
    }
    assert_eq!(order.len(), 34);
    assert!(order.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1), "{order:?}");
    assert!(kv.try_lock("lock", ttl).await?.is_some());
    Ok(())
}

#[tokio::test]
async fn a_watch_that_falls_behind_the_history_says_so() -> Result<()> {
    let kv = connect("memory://?history=100").await?;
    let mut slow = kv.watch("a/", 0).await?;
    let mut idle = kv.watch("b/", 0).await?;
    for number in 0..250 {
        kv.set(&format!("a/{number}"), "").await?;
    }
    assert!(matches!(slow.next().await, Some(Err(Error::Compacted { oldest: Some(_), .. }))));
    assert!(slow.next().await.is_none());
    // The history has moved past this watch, which missed nothing because nothing concerned it.
    kv.set("b/1", "").await?;
    assert_eq!(idle.next().await.expect("goes on")?.key, "b/1");

    let index = kv.get("a/100").await?.index;
    assert!(matches!(kv.watch("", index).await, Err(Error::Compacted { .. })));
    let index = kv.get("a/200").await?.index;
    let mut recent = kv.watch("a/", index).await?;
    assert_eq!(recent.next().await.expect("goes on")?.key, "a/201");
    Ok(())
}

/// Each transaction moves one unit between two keys, so that a torn snapshot shows another sum.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_read_in_pieces_are_whole() -> Result<()> {
    const KEYS: usize = 5000;
    let kv = private();
    for number in 0..KEYS {
        kv.set(&format!("{number:04}"), "100").await?;
    }
    let writer = {
        let kv = kv.clone();
        tokio::spawn(async move {
            for step in 0.. {
                let (from, to) = (step * 7919 % KEYS, (step * 104_729 + 1) % KEYS);
                if from == to {
                    continue;
                }
                let amount = async |number: usize| -> Result<u64> {
                    let data = kv.get(&format!("{number:04}")).await?.data;
                    Ok(std::str::from_utf8(&data).expect("digits").parse().expect("a number"))
                };
                let (less, more) = (amount(from).await?.wrapping_sub(1), amount(to).await? + 1);
                if less == u64::MAX {
                    continue;
                }
                let txn = kv.txn().set(&format!("{from:04}"), less.to_string());
                txn.set(&format!("{to:04}"), more.to_string()).commit().await?;
                // Some keys come and go as well, at the border of a piece and elsewhere.
                kv.set(&format!("{from:04}/x"), "0").await?;
                kv.delete(&format!("{from:04}/x")).await?;
                tokio::task::yield_now().await;
            }
            Ok::<(), Error>(())
        })
    };
    for _ in 0..100 {
        let listing = kv.get_all("").await?;
        let sum: usize = listing
            .values
            .values()
            .map(|value| std::str::from_utf8(&value.data).expect("digits").parse::<usize>().expect("a number"))
            .sum();
        assert_eq!(sum, KEYS * 100, "at index {}", listing.index);
        assert!(listing.values.values().all(|value| value.index <= listing.index));
    }
    writer.abort();
    Ok(())
}

#[tokio::test]
async fn a_snapshot_ends_even_if_writers_outrun_the_history() -> Result<()> {
    let kv = connect("memory://?history=1").await?;
    for number in 0..3000 {
        kv.set(&format!("{number}"), "").await?;
    }
    let writer = {
        let kv = kv.clone();
        tokio::spawn(async move {
            loop {
                kv.set("0", "").await.expect("memory does not fail");
                tokio::task::yield_now().await;
            }
        })
    };
    assert_eq!(kv.get_all("").await?.values.len(), 3000);
    writer.abort();
    Ok(())
}

/// The cases about ephemeral keys on a store where a plain write detaches them, as on etcd.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_detaches_keeps_the_contract() {
    use futures_util::{StreamExt as _, stream};
    use kv_conformance::{AddressFixture, CASES, Suite, Verdict};

    let registry = kv_core::Registry::new().with(kv_memory::REGISTRATION);
    let fixture = AddressFixture::new(registry, "memory://detaching?foreign-write=detaches").await.expect("a store");
    let suite = &Suite::new(fixture).await.expect("a store");
    let concerned =
        CASES.iter().filter(|case| case.name.starts_with("foreign::") || case.name.starts_with("ephemeral::"));
    let runs = stream::iter(concerned).map(|case| async move { (case.name, suite.run(case).await) });
    let failed: Vec<_> = runs
        .buffer_unordered(16)
        .filter_map(async |(name, verdict)| match verdict {
            Verdict::Failed(report) => Some(format!("{name} {report}")),
            _ => None,
        })
        .collect()
        .await;
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    let limits = connect("memory://detaching").await.expect("it exists").limits();
    assert_eq!(limits.foreign_write, kv_core::ForeignWrite::Detaches);
}

#[tokio::test]
async fn a_stored_value_keeps_no_larger_buffer_alive() -> Result<()> {
    struct Large {
        _alive: Arc<()>,
    }
    impl AsRef<[u8]> for Large {
        fn as_ref(&self) -> &[u8] {
            static LARGE: [u8; 100_000] = [7; 100_000];
            &LARGE
        }
    }
    let kv = private();
    let alive = Arc::new(());
    let part = || bytes::Bytes::from_owner(Large { _alive: alive.clone() }).slice(..10);
    kv.set("a", part()).await?;
    kv.txn().set("b", part()).commit().await?;
    let key = kv.ephemeral_key("c", Duration::from_secs(60)).await?;
    key.set(part()).await?;
    assert_eq!(Arc::strong_count(&alive), 1);
    assert_eq!(kv.get("c").await?.data, [7; 10].as_slice());
    Ok(())
}

#[tokio::test]
async fn the_shortest_time_to_live_can_be_held() -> Result<()> {
    let kv = private();
    let lock = kv.lock("lock", kv.limits().min_ttl).await?;
    lock.hold(tokio::time::sleep(kv.limits().min_ttl * 20)).await?;
    lock.unlock().await
}

/// More children than are read at a time, some of which come and go meanwhile, always in pairs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn children_read_in_pieces_are_those_of_one_moment() -> Result<()> {
    const CHILDREN: usize = 3000;
    let kv = private();
    for number in 0..CHILDREN {
        kv.set(&format!("d/{number:04}/x"), "").await?;
    }
    kv.set("d/0000b", "").await?;
    let writer = {
        let kv = kv.clone();
        tokio::spawn(async move {
            loop {
                kv.txn().delete("d/0000b").set("d/2999b", "").commit().await?;
                tokio::task::yield_now().await;
                kv.txn().delete("d/2999b").set("d/0000b", "").commit().await?;
                tokio::task::yield_now().await;
            }
            #[allow(unreachable_code, reason = "it names the type of the error")]
            Ok::<(), Error>(())
        })
    };
    for _ in 0..50 {
        let children = kv.keys("d").await?;
        assert_eq!(children.len(), CHILDREN + 1);
        assert!(children.is_sorted_by(|a, b| a < b));
    }
    writer.abort();
    Ok(())
}
