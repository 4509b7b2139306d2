//! Hostile servers: whatever they answer, each call ends in time with a suitable error, needs bounded memory, and
//! leaves a client that works again once the server does.

mod abandoned;
mod answers;
mod frugal;
mod history;
mod message;
mod minimal;
mod request;
mod retries;
mod runtimes;
mod server;
mod streams;
mod transport;

use std::panic;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kv_core::{Environment, Error, Kv, Registry, Result, Watch};
use server::{Mood, Server};
use tokio::time::{Instant, sleep, timeout};

/// Upper bound; reached only when the test fails.
const PATIENCE: Duration = Duration::from_secs(30);

static PANICS: AtomicUsize = AtomicUsize::new(0);

/// A good server, and a client that has connected to it.
async fn start() -> (Server, Kv) {
    static COUNT_PANICS: Once = Once::new();
    COUNT_PANICS.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            // A panic of a test itself fails that test, and is not counted.
            let here = info.location().is_some_and(|at| at.file().contains("tests/hostile"));
            PANICS.fetch_add(usize::from(!here), Ordering::SeqCst);
            usual(info);
        }));
    });
    let server = Server::start().await;
    let kv = connect(&server, "500ms").await;
    (server, kv)
}

async fn connect(server: &Server, timeout: &str) -> Kv {
    connect_to(&format!("etcd://{}?timeout={timeout}", server.address)).await
}

async fn connect_to(address: &str) -> Kv {
    let registry = Registry::new().with(kv_etcd::REGISTRATION).with_environment(Environment::from([]));
    registry.connect(address).await.expect("a good server")
}

/// Opens a watch from index 1 on. The first attempts may fail with the connection that the server has just ended.
async fn open_watch(kv: &Kv) -> Watch {
    soon("a watch", async {
        loop {
            if let Ok(watch) = kv.watch("", 1).await {
                return watch;
            }
        }
    })
    .await
}

/// Fails the test if it takes too long.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what}: nothing within {PATIENCE:?}"))
}

/// Repeats a check until it holds.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    soon(what, async {
        while !holds() {
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// The calls that failed, and their errors.
type Errors = Vec<(&'static str, Error)>;

/// Makes every kind of call but `lock`, which may wait for ever.
async fn every_call(kv: &Kv) -> Errors {
    const TTL: Duration = Duration::from_secs(10);
    let mut errors = Errors::new();
    let mut note = |call, result: Result<()>| errors.extend(result.err().map(|error| (call, error)));
    note("get", soon("get", kv.get("key")).await.map(drop));
    note("get_all", soon("get_all", kv.get_all("")).await.map(drop));
    note("keys", soon("keys", kv.keys("")).await.map(drop));
    note("ping", soon("ping", kv.ping()).await);
    note("watch", soon("watch", kv.watch("", 0)).await.map(drop));
    note("observe", soon("observe", kv.observe("")).await.map(drop));
    note("set", soon("set", kv.set("key", "value")).await.map(drop));
    note("update", soon("update", kv.update("key", kv_core::Value::new("value", 1))).await.map(drop));
    note("delete", soon("delete", kv.delete("key")).await);
    note("txn", soon("txn", kv.txn().set("a", "1").set("b", "2").commit()).await.map(drop));
    note("ephemeral_key", soon("ephemeral_key", kv.ephemeral_key("key", TTL)).await.map(drop));
    note("try_lock", soon("try_lock", kv.try_lock("key", TTL)).await.map(drop));
    errors
}

/// Makes every call to a hostile server, and requires that each fails as it should. Then requires that the same client
/// works again with a good server.
async fn survives(what: &str, mood: Mood) -> Errors {
    let (server, kv) = start().await;
    server.turn(mood);
    let before = server.counts.writes();
    let errors = every_call(&kv).await;
    assert_eq!(errors.len(), 12, "{what}: some calls succeeded: {errors:?}");
    for (call, error) in &errors {
        let typed =
            matches!(error, Error::Unavailable { .. } | Error::Indeterminate { .. } | Error::UnexpectedAnswer { .. });
        assert!(typed, "{what}: {call}: {error:?}");
        assert!(error.to_string().len() < 1000, "{what}: {call}: {error}");
    }
    // A server that received a write completely may have applied it, unless HTTP/2 says that it was not processed.
    let unprocessed = |error: &Error| error.to_string().contains("the server did not take the request");
    if errors.iter().all(|(_, error)| !unprocessed(error)) && server.counts.writes() > before {
        let retryable = errors.iter().find(|(call, error)| *call == "set" && error.is_retryable());
        assert!(retryable.is_none(), "{what}: {retryable:?}");
    }
    works_again(what, &server, &kv).await;
    errors
}

async fn works_again(what: &str, server: &Server, kv: &Kv) {
    server.turn(Mood::Good);
    soon(what, async {
        while kv.set("key", "value").await.is_err() || kv.watch("", 0).await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(PANICS.load(Ordering::SeqCst), 0, "{what}: something has panicked");
}

/// How much a count grows within a second.
async fn in_a_second(count: impl Fn() -> usize) -> usize {
    let (before, began) = (count(), Instant::now());
    sleep(Duration::from_secs(1)).await;
    // If the machine was suspended meanwhile, more time has passed.
    let millis = usize::try_from(began.elapsed().as_millis()).expect("not so long");
    (count() - before) * 1000 / millis
}
