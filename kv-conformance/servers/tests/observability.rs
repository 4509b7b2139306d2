//! The spans and events of every backend are those of `kv_core::observability`, and contain neither values nor secrets.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kv_conformance::chaos::proxy::Proxy;
use kv_conformance::testing::{PATIENCE, until};
use kv_conformance_servers::{Access, Cluster, Credential, Kind, Options};
use kv_core::{Environment, Kv, Registry, Value};
use tokio::time::{sleep, timeout};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;

const TTL: Duration = Duration::from_secs(15);
const VALUE: &str = "what-is-stored";

/// The fields of a span or an event, as text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Fields(BTreeMap<&'static str, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}

impl Fields {
    fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }
}

/// A record of all spans and events on the threads where it is installed.
#[derive(Debug, Clone, Default)]
struct Told(Arc<Mutex<Log>>);

#[derive(Debug, Default)]
struct Log {
    /// The spans `kv` that have closed.
    calls: Vec<Fields>,
    events: Vec<(Level, Fields)>,
    /// Everything that any crate logged, as text.
    lines: Vec<String>,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Told {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        context.span(id).expect("it is new").extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let span = context.span(id).expect("it is open");
        values.record(span.extensions_mut().get_mut::<Fields>().expect("it was given fields"));
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let span = context.span(&id).expect("it is closing");
        let fields = span.extensions_mut().remove::<Fields>().expect("it was given fields");
        let mut log = self.0.lock().expect("not poisoned");
        log.lines.push(format!("{} {fields:?}", span.name()));
        if span.name() == "kv" {
            assert_eq!((span.metadata().target(), *span.metadata().level()), ("kv_core", Level::DEBUG));
            log.calls.push(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let mut log = self.0.lock().expect("not poisoned");
        log.lines.push(format!("{fields:?}"));
        if event.metadata().target() == "kv_core" {
            log.events.push((*event.metadata().level(), fields));
        }
    }
}

impl Told {
    fn calls(&self) -> Vec<Fields> {
        self.0.lock().expect("not poisoned").calls.clone()
    }

    /// The events of one name.
    fn events(&self, message: &str) -> Vec<(Level, Fields)> {
        let log = self.0.lock().expect("not poisoned");
        log.events.iter().filter(|(_, fields)| fields.get("message") == message).cloned().collect()
    }

    /// Waits until an event is there.
    async fn event(&self, message: &str, field: &str, value: &str) -> (Level, Fields) {
        let waiting = async {
            loop {
                if let Some(event) = self.events(message).into_iter().find(|(_, told)| told.get(field) == value) {
                    return event;
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        let late =
            |_| panic!("no {message:?} with {field} = {value:?}: {:#?}", self.0.lock().expect("not poisoned").events);
        timeout(PATIENCE, waiting).await.unwrap_or_else(late)
    }

    fn assert_silent_about(&self, secrets: &[&str]) {
        let log = self.0.lock().expect("not poisoned");
        for secret in secrets {
            let line = log.lines.iter().find(|line| line.contains(secret));
            assert!(line.is_none(), "{secret} was revealed: {line:?}");
        }
    }
}

/// All tasks of a test run on its thread, so the record contains only what this test logs.
fn listen() -> (Told, tracing::subscriber::DefaultGuard) {
    let told = Told::default();
    (told.clone(), tracing::subscriber::set_default(tracing_subscriber::registry().with(told)))
}

async fn connect(address: &str) -> Kv {
    let registry = Registry::new()
        .with(kv_consul::REGISTRATION)
        .with(kv_etcd::REGISTRATION)
        .with(kv_memory::REGISTRATION)
        .with_environment(Environment::from([]));
    registry.connect(address).await.expect("the store serves")
}

async fn server(kind: Kind, options: Options) -> Cluster {
    Cluster::start(kind, 1, options).await.expect("a server")
}

/// Calls every verb, and looks at the spans.
async fn every_call_is_a_span(address: &str, backend: &str, secrets: &[&str]) {
    let (told, _guard) = listen();
    let kv = connect(address).await.scoped("app").expect("a directory");
    kv.delete_tree("").await.expect("an empty tree");
    let index = kv.set("key", VALUE).await.expect("set");
    kv.get("key").await.expect("get");
    assert!(kv.get("none").await.is_err());
    kv.get_all("k").await.expect("get_all");
    kv.keys("").await.expect("keys");
    assert!(kv.update("key", Value::new(VALUE, index + 1000)).await.is_err());
    kv.remove("key", index).await.expect("remove");
    kv.delete("key").await.expect("delete");
    kv.txn().set("key", VALUE).commit().await.expect("txn");
    drop(kv.watch("k", 0).await.expect("watch"));
    drop(kv.observe("k").await.expect("observe"));
    let key = kv.ephemeral_key("member", TTL).await.expect("ephemeral_key");
    key.set(VALUE).await.expect("set");
    key.renew().await.expect("renew");
    key.destroy().await.expect("destroy");
    let lock = kv.lock("lock", TTL).await.expect("lock");
    assert!(kv.try_lock("lock", TTL).await.expect("try_lock").is_none());
    let fenced = kv.txn().held(&lock).set("key", VALUE);
    lock.unlock().await.expect("unlock");
    assert!(fenced.commit().await.is_err_and(|error| error.is_lost()));
    drop(kv.lock("lock", TTL).await.expect("lock"));
    let member = kv.ephemeral_key("member", TTL).await.expect("ephemeral_key");
    kv.delete("member").await.expect("delete");
    for _ in 0..2 {
        assert!(member.renew().await.is_err_and(|error| error.is_lost()));
    }
    drop(member);
    // Dropped handles are released in the background.
    let released = || told.calls().iter().filter(|call| call.get("operation") == "release").count();
    until("both are released", async || released() == 2).await;

    let calls = told.calls();
    let seen: BTreeSet<_> =
        calls.iter().map(|call| (call.get("operation"), call.get("key"), call.get("outcome"))).collect();
    let expected = BTreeSet::from([
        ("ping", "", "ok"),
        ("delete_tree", "", "ok"),
        ("set", "key", "ok"),
        ("get", "key", "ok"),
        ("get", "none", "not_found"),
        ("get_all", "k", "ok"),
        ("keys", "", "ok"),
        ("update", "key", "conflict"),
        ("remove", "key", "ok"),
        ("delete", "key", "ok"),
        ("txn", "", "ok"),
        ("watch", "k", "ok"),
        ("observe", "k", "ok"),
        ("ephemeral_key", "member", "ok"),
        ("set", "member", "ok"),
        ("renew", "member", "ok"),
        ("destroy", "member", "ok"),
        ("lock", "lock", "ok"),
        ("try_lock", "lock", "ok"),
        ("unlock", "lock", "ok"),
        ("txn", "", "lost"),
        ("release", "lock", "ok"),
        ("delete", "member", "ok"),
        ("renew", "member", "lost"),
        ("release", "member", "lost"),
    ]);
    assert_eq!(seen, expected);
    assert!(calls.iter().all(|call| call.get("backend") == backend && call.get("attempt").is_empty()));
    let done = told.events("done");
    assert_eq!(done.len(), calls.len());
    assert!(done.iter().all(|(level, _)| *level == Level::DEBUG));
    let lost: Vec<_> = told.events("lease lost");
    let keys: Vec<_> = lost.iter().map(|(_, fields)| fields.get("key")).collect();
    assert_eq!(keys, ["lock", "member"], "the transaction's once, the handle's once");
    assert!(lost.iter().all(|(level, fields)| *level == Level::WARN && fields.get("backend") == backend));
    told.assert_silent_about(&[&[VALUE], secrets].concat());
}

#[tokio::test]
async fn every_call_is_a_span_on_memory() {
    every_call_is_a_span("memory://", "memory", &[]).await;
}

#[tokio::test]
async fn every_call_is_a_span_on_etcd() {
    let cluster = server(Kind::Etcd, Options::default().access_control()).await;
    let credential = cluster.grant("", Access::Write).await.expect("a user");
    let Credential::User { password, .. } = &credential else { panic!("no user") };
    every_call_is_a_span(&cluster.address_as(&credential), "etcd", &[password]).await;
    cluster.stop().await;
}

#[tokio::test]
async fn every_call_is_a_span_on_consul() {
    let cluster = server(Kind::Consul, Options::default().access_control()).await;
    let credential = cluster.grant("", Access::Write).await.expect("a token");
    let Credential::Token(token) = &credential else { panic!("no token") };
    every_call_is_a_span(&cluster.address_as(&credential), "consul", &[token]).await;
    cluster.stop().await;
}

/// The server is killed under a watch and a lock, and starts again.
async fn an_outage_is_told(kind: Kind) {
    let cluster = server(kind, Options::default()).await;
    let (told, _guard) = listen();
    let backend = kind.to_string();
    let kv = connect(&format!("{}?timeout=2s", cluster.address())).await;
    let mut watch = kv.watch("", 0).await.expect("watch");
    let lock = kv.lock("lock", TTL).await.expect("lock");
    let dropped = kv.lock("dropped", TTL).await.expect("lock");
    assert!(told.events("reconnecting").is_empty());

    cluster.kill(0).await.expect("killed");
    let (level, fields) = told.event("reconnecting", "what", "watch").await;
    assert_eq!((level, fields.get("attempt"), fields.get("backend")), (Level::WARN, "1", &*backend));
    assert!(!fields.get("error").is_empty());
    let (level, _) = told.event("reconnecting", "attempt", "2").await;
    assert_eq!(level, Level::DEBUG);
    drop(dropped);
    let (level, fields) = told.event("lease left to lapse", "key", "dropped").await;
    assert_eq!((level, fields.get("backend")), (Level::WARN, &*backend));
    let not_renewed = lock.hold(told.event("lease not renewed", "key", "lock")).await;
    let (level, fields) = not_renewed.expect("the lease stands meanwhile");
    assert_eq!((level, fields.get("backend")), (Level::WARN, &*backend));

    cluster.start_again(0).await.expect("started");
    let (level, fields) = told.event("reconnected", "what", "watch").await;
    assert_eq!((level, fields.get("backend")), (Level::INFO, &*backend));
    assert!(fields.get("attempt").parse::<usize>().expect("a number") >= 2);
    kv.set("key", VALUE).await.expect("set");
    watch.next().await.expect("the watch goes on").expect("an event");
    let warnings = told.events("reconnecting").into_iter().filter(|(level, _)| *level == Level::WARN);
    assert!(warnings.count() <= 3, "one warning for each thing that broke, however long the outage is");
    cluster.stop().await;
}

#[tokio::test]
async fn an_outage_is_told_by_etcd() {
    an_outage_is_told(Kind::Etcd).await;
}

#[tokio::test]
async fn an_outage_is_told_by_consul() {
    an_outage_is_told(Kind::Consul).await;
}

/// The first of two endpoints hangs up on a call: it moves on, and says so.
async fn attempts_are_counted(kind: Kind) {
    let cluster = server(kind, Options::default()).await;
    let endpoint = cluster.endpoints().swap_remove(0);
    let [first, second] =
        [Proxy::start(endpoint.clone()).await.expect("a proxy"), Proxy::start(endpoint).await.expect("a proxy")];
    let (told, _guard) = listen();
    let kv = connect(&format!("{kind}://{},{}", first.endpoint(), second.endpoint())).await;
    assert!(told.events("attempt failed").is_empty());
    let answered = async || kv.get("none").await.is_err_and(|error| error.is_key_not_found());
    // The order of endpoints is random: the second one serves if nothing fails without the first.
    let mut proxy = &first;
    proxy.refuse();
    assert!(answered().await, "the other endpoint answers");
    if told.events("attempt failed").is_empty() {
        proxy.heal();
        proxy = &second;
        proxy.refuse();
        assert!(answered().await, "the other endpoint answers");
    }

    let (level, failed) = told.events("attempt failed").swap_remove(0);
    assert!(failed.get("endpoint").contains(proxy.endpoint()) && !failed.get("error").is_empty(), "{failed:?}");
    assert_eq!((level, failed.get("attempt"), failed.get("backend")), (Level::DEBUG, "1", &*kind.to_string()));
    let last = told.calls().pop().expect("a call");
    assert_eq!((last.get("outcome"), last.get("attempt")), ("not_found", "2"));
    cluster.stop().await;
}

#[tokio::test]
async fn attempts_are_counted_by_etcd() {
    attempts_are_counted(Kind::Etcd).await;
}

#[tokio::test]
async fn attempts_are_counted_by_consul() {
    attempts_are_counted(Kind::Consul).await;
}

#[tokio::test]
async fn keys_that_cannot_be_shown_are_told_once() {
    let cluster = server(Kind::Etcd, Options::default()).await;
    let (told, _guard) = listen();
    let kv = connect(&cluster.address()).await;
    let mut watch = kv.watch("", 0).await.expect("a watch");
    // In one transaction, so that a watch receives them together.
    let put = "printf '\\nput a\\377 1\\nput b\\377 2\\nput shown 3\\nput z\\377 4\\n\\n\\n' | etcdctl txn";
    let put = cluster.exec(0, &["sh", "-c", put]).await.expect("etcdctl runs");
    assert_eq!(put.code, 0, "{}", put.stderr);

    let event = watch.next().await.expect("the watch goes on").expect("an event");
    assert_eq!(event.key, "shown");
    let listing = kv.get_all("").await.expect("a listing");
    assert!(listing.values.keys().eq(["shown"]), "{listing:?}");
    assert_eq!(kv.keys("").await.expect("keys"), ["shown"]);
    kv.get("shown").await.expect("a key that can be shown");

    let told = told.events("foreign keys left out");
    assert_eq!(told.len(), 3, "one event of the watch, and one of each listing: {told:?}");
    for (level, fields) in told {
        let told = (level, fields.get("backend"), fields.get("count"), fields.get("key"));
        assert_eq!(told, (Level::WARN, "etcd", "3", r#"b"a\xff""#));
    }
    cluster.stop().await;
}
