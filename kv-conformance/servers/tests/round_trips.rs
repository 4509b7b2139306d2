//! How many round trips each call takes, on real servers that are far away. Needs Docker.
//!
//! A relay delays every byte, so a call takes as long as its round trips one after the other. No call can take less, so
//! the least of several attempts tells how many there are, however busy the machine is.

use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use kv_conformance::chaos::distance::Distance;
use kv_conformance_servers::{Cluster, Kind, Options, Tls};
use kv_core::{Kv, Registry, Value};

const ROUND_TRIP: Duration = Duration::from_millis(100);
const ATTEMPTS: usize = 40;
const TTL: Duration = Duration::from_secs(15);

/// A store that is one round trip away, and as near as it really is.
struct Far {
    kv: Kv,
    near: Kv,
    address: String,
    cluster: Cluster,
    _relay: Distance,
}

impl Far {
    async fn start(kind: Kind, options: Options) -> Self {
        let cluster = Cluster::start(kind, 1, options).await.expect("a server");
        let near = cluster.admin().map_or_else(|| cluster.address(), |admin| cluster.address_as(admin));
        let server = cluster.endpoints()[0].clone();
        let relay = Distance::to(&server, ROUND_TRIP).await.expect("a relay");
        let address = near.replace(&server, relay.endpoint());
        let (far, near) = (connect(&address).await, connect(&near).await);
        Self { kv: far, near, address, cluster, _relay: relay }
    }

    /// Requires that a call takes so many round trips. `call` makes it once, for the attempt of a number, and says how
    /// long it took.
    async fn takes<'a>(&'a self, what: &str, expected: u32, call: impl Fn(&'a Self, usize) -> BoxFuture<'a, Duration>) {
        let mut least = Duration::MAX;
        for attempt in 0..ATTEMPTS {
            let took = call(self, attempt).await;
            let possible = ROUND_TRIP * expected;
            assert!(took >= possible, "{what}: {took:?}, less than {expected} round trips: is the relay there?");
            least = least.min(took);
            if least < possible + ROUND_TRIP {
                return;
            }
        }
        panic!("{what} takes {least:?} at least, so more than {expected} round trips of {ROUND_TRIP:?}");
    }
}

async fn connect(address: &str) -> Kv {
    let registry = Registry::new().with(kv_etcd::REGISTRATION).with(kv_consul::REGISTRATION);
    registry.connect(address).await.expect("a client").with_timeout(Duration::from_secs(60))
}

/// How long a call takes that must succeed.
async fn timed<T>(call: impl Future<Output = kv_core::Result<T>>) -> (Duration, T) {
    let began = Instant::now();
    let result = call.await.expect("the call succeeds");
    (began.elapsed(), result)
}

macro_rules! takes {
    ($store:expr, $what:literal, $expected:expr, |$far:ident, $number:ident| $body:expr) => {
        $store
            .takes($what, $expected, |$far: &Far, $number: usize| {
                Box::pin(async move {
                    let _ = $number;
                    $body
                })
            })
            .await
    };
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd() {
    let store = Far::start(Kind::Etcd, Options::default().in_memory()).await;
    every_call(&store).await;
    store.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn consul() {
    let store = Far::start(Kind::Consul, Options::default().in_memory()).await;
    every_call(&store).await;
    store.cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connecting_with_tls_and_with_a_login() {
    for (kind, options, round_trips) in [
        (Kind::Etcd, Options::default().tls(Tls::Server), 3),
        (Kind::Consul, Options::default().tls(Tls::Server), 3),
        (Kind::Etcd, Options::default().access_control(), 3),
        (Kind::Consul, Options::default().access_control(), 2),
    ] {
        let store = Far::start(kind, options.in_memory()).await;
        takes!(store, "connect", round_trips, |far, _n| timed(connect_far(far)).await.0);
        store.cluster.stop().await;
    }
}

async fn connect_far(far: &Far) -> kv_core::Result<Kv> {
    Ok(connect(&far.address).await)
}

async fn every_call(store: &Far) {
    takes!(store, "connect", 2, |far, _n| timed(connect_far(far)).await.0);
    single_calls(store).await;
    watches(store).await;
    leases(store).await;
    hand_over(store).await;
}

async fn single_calls(store: &Far) {
    let index = store.near.set("k", "v").await.expect("a write");
    assert!(index > 0);
    takes!(store, "get", 1, |s, _n| timed(s.kv.get("k")).await.0);
    takes!(store, "set", 1, |s, _n| timed(s.kv.set("k", "v")).await.0);
    takes!(store, "get_all", 1, |s, _n| timed(s.kv.get_all("")).await.0);
    takes!(store, "keys", 1, |s, _n| timed(s.kv.keys("")).await.0);
    takes!(store, "delete_tree", 1, |s, _n| timed(s.kv.delete_tree("none")).await.0);
    takes!(store, "ping", 1, |s, _n| timed(s.kv.ping()).await.0);
    takes!(store, "update", 1, |s, n| timed(s.kv.update(&format!("u/{n}"), Value::new("v", 0))).await.0);
    takes!(store, "txn", 1, |s, n| {
        let (one, other) = (format!("t/{n}/a"), format!("t/{n}/b"));
        timed(s.kv.txn().check(&one, 0).set(&one, "1").set(&other, "2").commit()).await.0
    });
}

async fn watches(store: &Far) {
    // The first one may open what the others share.
    let _first = store.kv.watch("w/", 0).await.expect("a watch");
    takes!(store, "watch", 1, |s, n| timed(s.kv.watch(&format!("w/{n}/"), 0)).await.0);
    takes!(store, "observe", 1, |s, n| timed(s.kv.observe(&format!("o/{n}/"))).await.0);
}

async fn leases(store: &Far) {
    takes!(store, "ephemeral_key", 2, |s, n| {
        // Another time to live each, so that no lease is at hand.
        let ttl = TTL + Duration::from_secs(n as u64);
        let (took, key) = timed(s.kv.ephemeral_key(&format!("e/{n}"), ttl)).await;
        key.destroy().await.expect("it is removed");
        took
    });
    takes!(store, "lock of a free name", 2, |s, n| {
        let ttl = TTL * 2 + Duration::from_secs(n as u64);
        let (took, lock) = timed(s.kv.lock(&format!("l/{n}"), ttl)).await;
        lock.unlock().await.expect("it is freed");
        took
    });
    takes!(store, "ephemeral_key with a lease at hand", 1, |s, n| {
        let first = s.kv.ephemeral_key("kept/e", TTL).await.expect("a key");
        first.destroy().await.expect("it is removed");
        let (took, key) = timed(s.kv.ephemeral_key(&format!("kept/{n}"), TTL)).await;
        key.destroy().await.expect("it is removed");
        took
    });
    takes!(store, "lock with a lease at hand", 1, |s, _n| {
        let first = s.kv.lock("kept/l", TTL).await.expect("a lock");
        first.unlock().await.expect("it is freed");
        let (took, lock) = timed(s.kv.lock("kept/l", TTL)).await;
        lock.unlock().await.expect("it is freed");
        took
    });
    takes!(store, "ephemeral set", 1, |s, n| {
        let key = s.kv.ephemeral_key(&format!("s/{n}"), TTL).await.expect("a key");
        let took = timed(key.set("v")).await.0;
        key.destroy().await.expect("it is removed");
        took
    });
    takes!(store, "renew", 1, |s, n| {
        let key = s.kv.ephemeral_key(&format!("r/{n}"), TTL).await.expect("a key");
        let took = timed(key.renew()).await.0;
        key.destroy().await.expect("it is removed");
        took
    });
    takes!(store, "destroy", 1, |s, n| {
        let key = s.kv.ephemeral_key(&format!("d/{n}"), TTL).await.expect("a key");
        timed(key.destroy()).await.0
    });
    takes!(store, "unlock", 1, |s, n| {
        let lock = s.kv.lock(&format!("x/{n}"), TTL).await.expect("a lock");
        timed(lock.unlock()).await.0
    });
    let held = store.near.lock("held", TTL).await.expect("a lock");
    takes!(store, "try_lock of a held name", 1, |s, n| {
        let ttl = TTL * 3 + Duration::from_secs(n as u64);
        let (took, none) = timed(s.kv.try_lock("held", ttl)).await;
        assert!(none.is_none());
        held_still(s).await;
        took
    });
    held.unlock().await.expect("it is freed");
}

async fn held_still(store: &Far) {
    assert!(store.near.try_lock("held", TTL).await.expect("an answer").is_none());
}

async fn hand_over(store: &Far) {
    takes!(store, "from the start of an unlock to the next holder", 2, |s, n| {
        let name = format!("h/{n}");
        let first = s.kv.lock(&name, TTL).await.expect("a lock");
        let other = connect(&s.address).await;
        let waiting = tokio::spawn(async move {
            let lock = other.lock(&name, TTL).await.expect("a lock");
            (Instant::now(), lock)
        });
        // Time for the other one to queue up. If it has not, the next attempt counts.
        tokio::time::sleep(ROUND_TRIP * 10).await;
        let began = Instant::now();
        first.unlock().await.expect("it is freed");
        let (granted, lock) = waiting.await.expect("the task ends");
        lock.unlock().await.expect("it is freed");
        granted - began
    });
}
