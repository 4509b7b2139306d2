//! Clients whose connections are cut 500 times, on servers that know nothing of it. Needs Docker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use kv_conformance::chaos::proxy::{Proxy, RandomFaults};
use kv_conformance::judge::{Change, Completeness, judge_events};
use kv_conformance::servers::{Cluster, Kind, Options};
use kv_core::{Environment, Error, Event, Kv, Registration, Registry, Value, Watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

const CUTS: usize = 500;
const WRITERS: usize = 6;
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn etcd_loses_nothing_in_500_cuts() {
    loses_nothing(Kind::Etcd, kv_etcd::REGISTRATION).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn consul_loses_nothing_in_500_cuts() {
    loses_nothing(Kind::Consul, kv_consul::REGISTRATION).await;
}

/// What became of the writes, each to a key of its own.
#[derive(Debug, Default)]
struct Fates {
    applied: Vec<Change>,
    unknown: usize,
    not_applied: Vec<String>,
}

async fn loses_nothing(kind: Kind, backend: Registration) {
    let cluster = Cluster::start(kind, 1, Options::default()).await.expect("a server");
    let proxy = Proxy::start(cluster.endpoints().swap_remove(0)).await.expect("a proxy");
    let registry = Registry::new().with(backend).with_environment(Environment::from([]));
    let direct = registry.connect(&cluster.address()).await.expect("a server that serves");
    let kv = registry.connect(&format!("{kind}://{}", proxy.endpoint())).await.expect("the way through the proxy");
    let watch = kv.watch("", 0).await.expect("a watch");

    proxy.hurt_at_random(RandomFaults::seeded(4));
    let (stop, numbers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut writers: JoinSet<Fates> =
        (0..WRITERS).map(|_| write_numbers(kv.clone(), numbers.clone(), stop.clone())).collect();
    let watching = tokio::spawn(events_until_the_last(watch));
    timeout(10 * PATIENCE, proxy.wait_for(|counts| counts.cuts() >= CUTS)).await.expect("500 cuts");
    stop.store(true, Ordering::SeqCst);
    let mut fates = Fates::default();
    while let Some(written) = writers.join_next().await {
        let written = written.expect("a writer");
        fates.applied.extend(written.applied);
        fates.not_applied.extend(written.not_applied);
        fates.unknown += written.unknown;
    }
    proxy.heal();
    let index = direct.set("last", "last").await.expect("the server itself");
    timeout(PATIENCE, reads(&kv, "last")).await.expect("the same client works once the trouble is over");
    fates.applied.push(Change { key: "last".to_owned(), data: "last".into(), index });
    let events = timeout(PATIENCE, watching).await.expect("the watch goes on").expect("a watcher");

    let stored = direct.get_all("").await.expect("the server itself").values;
    println!(
        "{kind}: {:?}; {} writes applied, {} of unknown fate, {} not applied",
        proxy.counts(),
        fates.applied.len(),
        fates.unknown,
        fates.not_applied.len()
    );
    for Change { key, data, index } in &fates.applied {
        assert_eq!(stored.get(key), Some(&Value::new(data.clone(), *index)), "{key} was acknowledged");
    }
    for key in &fates.not_applied {
        assert_eq!(stored.get(key), None, "{key} was reported as certainly not applied");
    }
    // Every key is written once, so that none may be merged with another change.
    let judgement = judge_events(&BTreeMap::new(), &events, &fates.applied, &stored, Completeness::Every);
    assert_eq!(judgement, Ok(()));
    assert!(fates.applied.len() > CUTS / 5 && fates.unknown > 0, "it was no test: {fates:?}");
    cluster.stop().await;
}

/// Writes a new key at a time, by turns whatever it was and only if it is new.
async fn write_numbers(kv: Kv, numbers: Arc<AtomicUsize>, stop: Arc<AtomicBool>) -> Fates {
    let mut fates = Fates::default();
    while !stop.load(Ordering::SeqCst) {
        let number = numbers.fetch_add(1, Ordering::SeqCst);
        let (key, data) = (format!("{number:06}"), format!("number {number}"));
        let result = match number % 2 {
            0 => kv.set(&key, data.clone()).await,
            _ => kv.update(&key, Value::new(data.clone(), 0)).await,
        };
        match result {
            Ok(index) => fates.applied.push(Change { key, data: data.into(), index }),
            Err(Error::Unavailable { .. }) => fates.not_applied.push(key),
            Err(Error::Indeterminate { .. }) => fates.unknown += 1,
            // A conflict, say, with itself: that a write was sent twice.
            Err(error) => panic!("{key}: {error:?}"),
        }
    }
    fates
}

/// Reads a key that exists until that succeeds.
async fn reads(kv: &Kv, key: &str) {
    while let Err(error) = kv.get(key).await {
        assert!(error.is_retryable(), "{error:?}");
    }
}

async fn events_until_the_last(mut watch: Watch) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    while events.last().is_none_or(|event| event.key != "last") {
        events.push(watch.next().await.expect("the watch goes on").expect("an event"));
    }
    events
}
