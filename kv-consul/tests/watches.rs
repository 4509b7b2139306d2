//! Watches by shared blocking queries: their number and cost. Needs Docker.

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kv_conformance_servers::Options;
use kv_core::{Event, EventType, Kv, Watch};
use support::{PATIENCE, Proxy, ask, connect, soon, start};

async fn next(watch: &mut Watch) -> Event {
    soon("an event", watch.next()).await.expect("the watch goes on").expect("an event")
}

/// Sets many keys, in transactions of the largest permitted size.
async fn set_all(kv: &Kv, keys: &[String], data: &str) {
    for keys in keys.chunks(kv.limits().txn_ops) {
        let txn = keys.iter().fold(kv.txn(), |txn, key| txn.set(key, data.to_owned()));
        txn.commit().await.expect("a transaction");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_elsewhere_do_not_make_a_watch_spin() {
    const RUN: Duration = Duration::from_secs(3);
    let cluster = start(Options::default()).await;
    let proxy = Proxy::start(&cluster.endpoints()[0]).await;
    let writer = connect(&cluster.address()).await;
    let watcher = connect(&format!("consul://{}", proxy.endpoint)).await;
    let mut watch = watcher.watch("quiet/", 0).await.expect("a watch");

    let began = Instant::now();
    let writing = (0..16).map(|task| {
        let writer = writer.clone();
        tokio::spawn(async move {
            let mut count = 0_u32;
            while began.elapsed() < RUN {
                writer.set(&format!("busy/{task}"), count.to_string()).await.expect("a write");
                count += 1;
            }
            count
        })
    });
    let writing: Vec<_> = writing.collect();
    let before = proxy.requests();
    tokio::time::sleep(RUN / 2).await;
    let asked = Instant::now();
    writer.set("quiet/now", "1").await.expect("a write");
    let event = next(&mut watch).await;
    let late = asked.elapsed();
    let mut total = 0;
    for task in writing {
        total += task.await.expect("no panic");
    }
    let requests = f64::from(u32::try_from(proxy.requests() - before).expect("few"));
    let (per_second, written) = (requests / began.elapsed().as_secs_f64(), f64::from(total) / RUN.as_secs_f64());
    println!("{written:.0} writes/s elsewhere: {per_second:.1} requests/s, the event came after {late:?}");
    assert_eq!((event.key.as_str(), event.event_type), ("quiet/now", EventType::Create));
    assert!(total > 100, "only {total} writes");
    assert!(per_second < 20.0, "{per_second} requests/s");
    assert!(late < PATIENCE / 6, "the event came after {late:?}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_watches_on_a_thousand_prefixes() {
    const WATCHES: usize = 1000;
    let cluster = start(Options::default()).await;
    let proxy = Proxy::start(&cluster.endpoints()[0]).await;
    let writer = connect(&cluster.address()).await;
    let watcher = connect(&format!("consul://{}", proxy.endpoint)).await;
    let keys: Vec<String> = (0..WATCHES).map(|number| format!("many/{number:04}/key")).collect();
    // Half of the keys already exist.
    set_all(&writer, &keys[..WATCHES / 2], "old").await;

    let opening = keys.iter().map(|key| {
        let (watcher, prefix) = (watcher.clone(), key.trim_end_matches("key").to_owned());
        tokio::spawn(async move { watcher.watch(&prefix, 0).await.expect("a watch") })
    });
    let mut open = Vec::new();
    for opening in opening.collect::<Vec<_>>() {
        open.push(opening.await.expect("no panic"));
    }
    let began = Instant::now();
    set_all(&writer, &keys, "new").await;
    for (number, (watch, key)) in open.iter_mut().zip(&keys).enumerate() {
        let event = next(watch).await;
        let expected = if number < WATCHES / 2 { EventType::Update } else { EventType::Create };
        assert_eq!((&event.key, event.event_type, &event.data[..]), (key, expected, &b"new"[..]));
    }
    let all = began.elapsed();
    // Ordinary calls have connections of their own.
    let asked = Instant::now();
    watcher.get(&keys[7]).await.expect("a read beside the watches");
    println!("{all:?} for 1,000 events, {:?} for a read, {} connections", asked.elapsed(), proxy.most_connections());
    // An agent closes every connection beyond 200.
    assert!(proxy.most_connections() < 180, "{} connections", proxy.most_connections());

    // Dropped watches leave nothing behind.
    drop(open);
    drop(watcher);
    support::until("every connection is closed", async || proxy.connections() == 0).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_thousand_keys() {
    const KEYS: usize = 50_000;
    let cluster = start(Options::default()).await;
    let kv = connect(&cluster.address()).await;
    let keys: Vec<String> = (0..KEYS).map(|number| format!("large/{number:06}")).collect();
    set_all(&kv, &keys, "value").await;
    let (listing, mut watch) = kv.observe("large/").await.expect("an observation");
    assert_eq!(listing.values.len(), KEYS);
    let index = kv.set(&keys[31_337], "other").await.expect("a write");
    let event = next(&mut watch).await;
    assert_eq!((&event.key, event.event_type, event.index), (&keys[31_337], EventType::Update, index));
    kv.delete(&keys[1]).await.expect("a deletion");
    let event = next(&mut watch).await;
    assert_eq!((&event.key, event.event_type), (&keys[1], EventType::Delete));
    assert!(event.index > index);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_after_a_crash() {
    let cluster = start(Options::default()).await;
    let kv = connect(&cluster.address()).await;
    kv.set("w/a", "1").await.expect("a write");
    let mut watch = kv.watch("w/", 0).await.expect("a watch");
    cluster.kill(0).await.expect("kill");
    assert!(kv.get("w/a").await.is_err_and(|error| error.is_retryable()), "a killed server answers");
    cluster.start_again(0).await.expect("start again");
    cluster.await_all().await.expect("the server serves again");
    let mut index = 0;
    support::until("a write after the restart", async || match kv.set("w/b", "2").await {
        Ok(written) => {
            index = written;
            true
        }
        Err(error) => {
            assert!(error.is_retryable(), "{error}");
            false
        }
    })
    .await;
    let event = next(&mut watch).await;
    assert_eq!((event.key.as_str(), event.event_type, event.index), ("w/b", EventType::Create, index));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_while_a_watch_is_cut_off_come_once() {
    let cluster = start(Options::default()).await;
    let proxy = Proxy::start(&cluster.endpoints()[0]).await;
    let writer = connect(&cluster.address()).await;
    let watcher = connect(&format!("consul://{}", proxy.endpoint)).await;
    for key in ["stays", "changes", "goes", "returns"] {
        writer.set(&format!("c/{key}"), "old").await.expect("a write");
    }
    let mut watch = watcher.watch("c/", 0).await.expect("a watch");
    for round in 1..=3 {
        proxy.cut();
        writer.set("c/changes", format!("{round}")).await.expect("a write");
        writer.delete("c/goes").await.expect("a deletion");
        writer.delete("c/returns").await.expect("a deletion");
        let returned = writer.set("c/returns", format!("{round}")).await.expect("a write");
        proxy.heal();
        let last = writer.set("c/last", format!("{round}")).await.expect("a write");
        let mut seen = BTreeMap::<String, Vec<EventType>>::new();
        let mut index = 0;
        loop {
            let event = next(&mut watch).await;
            assert!(event.index >= index, "{event:?} after {index}");
            index = event.index;
            seen.entry(event.key.clone()).or_default().push(event.event_type);
            // A deletion may have the index of the answer. Then it comes last.
            let gone = seen.contains_key("c/goes") || round > 1;
            if index >= last && seen.contains_key("c/last") && gone {
                break;
            }
        }
        assert!(returned < last);
        let goes = (round == 1).then(|| ("c/goes".to_owned(), vec![EventType::Delete]));
        let first = if round == 1 { EventType::Create } else { EventType::Update };
        let mut expected = BTreeMap::from([
            ("c/changes".to_owned(), vec![EventType::Update]),
            ("c/last".to_owned(), vec![first]),
            ("c/returns".to_owned(), vec![EventType::Delete, EventType::Create]),
        ]);
        expected.extend(goes);
        assert_eq!(seen, expected, "round {round}");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_consumer_gets_the_last_state() {
    let cluster = start(Options::default()).await;
    let kv = connect(&cluster.address()).await;
    let mut watch = kv.watch("s/", 0).await.expect("a watch");
    let mut last = 0;
    for number in 0..3000 {
        last = kv.set(&format!("s/{}", number % 5), number.to_string()).await.expect("a write");
    }
    let (mut events, mut state) = (0, BTreeMap::new());
    let mut index = 0;
    while index < last {
        let event = next(&mut watch).await;
        assert!(event.index >= index, "{event:?} after {index}");
        index = event.index;
        events += 1;
        state.insert(event.key, event.data);
    }
    println!("{events} events of 3,000 writes");
    let expected = kv.get_all("s/").await.expect("a listing").values;
    assert_eq!(state, expected.into_iter().map(|(key, value)| (key, value.data)).collect());
    // The queued events, those on their way, and each key once more.
    assert!(events <= 1024 + 100, "{events} events waited");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prefixes_that_paths_cannot_name() {
    let cluster = start(Options::default()).await;
    let kv = connect(&cluster.address()).await;
    for (prefix, key) in [("p/.", "p/.locks"), ("p/..", "p/..."), ("p/\t", "p/\tx"), ("p/\u{200b}", "p/\u{200b}/y")] {
        let mut watch = kv.watch(prefix, 0).await.expect("a watch");
        kv.set("p/other", "").await.expect("a write");
        let index = kv.set(key, "1").await.expect("a write");
        let event = next(&mut watch).await;
        assert_eq!((event.key.as_str(), event.index), (key, index), "{prefix:?}");
        let listed: Vec<_> = kv.get_all(prefix).await.expect("a listing").values.into_keys().collect();
        assert!(
            listed.iter().all(|listed| listed.starts_with(prefix)) && listed.contains(&key.to_owned()),
            "{listed:?}"
        );
        assert_eq!(kv.get(key).await.expect("a value").index, index);
    }
    assert_eq!(kv.keys("p/\u{200b}").await.expect("a directory"), ["p/\u{200b}/y"]);
    assert!(kv.get("p/\t").await.is_err_and(|error| error.is_key_not_found()));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deletions_come_in_order() {
    let cluster = start(Options::default()).await;
    let proxy = Proxy::start(&cluster.endpoints()[0]).await;
    let writer = connect(&cluster.address()).await;
    let watcher = connect(&format!("consul://{}", proxy.endpoint)).await;
    let keys = ["d/alone", "d/tree", "d/tree/a", "d/tree/b/c", "d/twice"];
    for key in keys {
        writer.set(key, "1").await.expect("a write");
    }
    let mut watch = watcher.watch("d/", 0).await.expect("a watch");
    // One answer shows all of these deletions. Each was made between two writes with indices of their own.
    proxy.cut();
    let mut between = vec![writer.set("d/0", "").await.expect("a write")];
    writer.delete("d/alone").await.expect("a deletion");
    between.push(writer.set("d/1", "").await.expect("a write"));
    writer.delete_tree("d/tree").await.expect("a deletion");
    between.push(writer.set("d/2", "").await.expect("a write"));
    writer.delete("d/twice").await.expect("a deletion");
    let again = writer.set("d/twice", "2").await.expect("a write");
    between.push(writer.set("d/3", "").await.expect("a write"));
    proxy.heal();
    let mut seen = Vec::new();
    while seen.last().is_none_or(|event: &Event| event.index < between[3]) {
        seen.push(next(&mut watch).await);
    }
    let deleted = |key: &str| {
        let deletion = seen.iter().find(|event| event.key == key && event.event_type == EventType::Delete);
        deletion.unwrap_or_else(|| panic!("{key} in {seen:?}")).index
    };
    assert!(between[0] < deleted("d/alone") && deleted("d/alone") < between[1], "{seen:?}");
    for key in ["d/tree", "d/tree/a", "d/tree/b/c"] {
        assert!(between[1] < deleted(key) && deleted(key) < between[2], "{key} in {seen:?}");
    }
    assert!(between[2] < deleted("d/twice") && deleted("d/twice") < again, "{seen:?}");
    assert!(seen.is_sorted_by_key(|event| event.index), "{seen:?}");
    cluster.stop().await;
}

/// Consul's own interface leaves such keys: folders.
#[tokio::test]
async fn a_folder_is_no_child_of_itself() {
    let cluster = start(Options::default()).await;
    let kv = connect(&cluster.address()).await;
    let mut watch = kv.watch("dir/", 0).await.expect("a watch");
    let endpoint = &cluster.endpoints()[0];
    for key in ["dir/", "dir/x", "dir/sub/"] {
        assert_eq!(ask(endpoint, "PUT", &format!("/v1/kv/{key}")).await, "true");
        assert_eq!(next(&mut watch).await.key, key);
    }
    assert_eq!(kv.keys("").await.expect("keys"), ["dir/"]);
    assert_eq!(kv.keys("dir").await.expect("keys"), ["dir/sub/", "dir/x"]);
    assert!(kv.keys("dir/sub").await.expect("keys").is_empty());
    let rooted = connect(&format!("{}/dir", cluster.address())).await;
    assert_eq!(rooted.keys("").await.expect("keys"), ["sub/", "x"]);
    // A lock at a folder's name, and below it.
    for name in ["sub", "sub/x"] {
        let lock = rooted.lock(name, Duration::from_secs(60)).await.expect("the lock");
        assert_eq!(rooted.keys("").await.expect("keys"), ["sub/", "x"]);
        lock.unlock().await.expect("still held");
    }
    rooted.delete_tree("").await.expect("the tree");
    assert_eq!(ask(endpoint, "GET", "/v1/kv/?keys").await, "[]", "the folder of the root goes with its tree");
    cluster.stop().await;
}
