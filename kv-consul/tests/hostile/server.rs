//! A server that is hostile on demand, and calls to it.

use std::panic;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

pub(crate) use kv_conformance::testing::soon;
use kv_core::{Environment, Error, Kv, Registry, Result, Value};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

pub(crate) const TTL: Duration = Duration::from_secs(10);

static PANICS: AtomicUsize = AtomicUsize::new(0);

type Act = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What the server does with a request and its connection.
type OnRequest = Arc<dyn Fn(TcpStream, Request) -> Act + Send + Sync>;

/// A request that has been read completely.
pub(crate) struct Request {
    pub(crate) head: String,
    pub(crate) counts: Counts,
}

impl Request {
    pub(crate) fn line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }
}

/// The counts so far.
#[derive(Clone, Default)]
pub(crate) struct Counts {
    pub(crate) requests: Arc<AtomicUsize>,
    /// Requests that may have written.
    pub(crate) writes: Arc<AtomicUsize>,
    /// Bytes of hostile answers that clients accepted.
    pub(crate) bytes: Arc<AtomicUsize>,
    /// The head of the last request.
    pub(crate) last: Arc<Mutex<String>>,
}

/// A server on loopback, which answers as Consul does at first.
pub(crate) struct Server {
    pub(crate) address: String,
    pub(crate) counts: Counts,
    /// The hostile behaviour; `None` to answer as Consul does.
    pub(crate) mood: watch::Sender<Option<OnRequest>>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        let (mood, moods) = watch::channel(None);
        let counts = Counts::default();
        tokio::spawn(accept(listener, moods, counts.clone()));
        Self { address, counts, mood }
    }

    /// Closes all connections, and handles each request with `act` from now on.
    pub(crate) fn turn<F: Future<Output = ()> + Send + 'static>(
        &self,
        act: impl Fn(TcpStream, Request) -> F + Send + Sync + 'static,
    ) {
        self.mood.send_replace(Some(Arc::new(move |stream, request| Box::pin(act(stream, request)))));
    }
}

async fn accept(listener: TcpListener, moods: watch::Receiver<Option<OnRequest>>, counts: Counts) {
    // This task ends when the sender of moods is dropped, and its connections with it.
    let mut connections = JoinSet::new();
    let mut ended = moods.clone();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted.expect("a connection").0,
            gone = ended.changed() => if gone.is_err() { return } else { continue },
        };
        let (mut moods, counts) = (moods.clone(), counts.clone());
        let mood = moods.borrow_and_update().clone();
        connections.spawn(async move {
            tokio::select! {
                () = serve(stream, mood, counts) => {}
                _ = moods.changed() => {}
            }
        });
    }
}

async fn serve(mut stream: TcpStream, mood: Option<OnRequest>, counts: Counts) {
    let _ = stream.set_nodelay(true);
    while let Some(head) = read_request(&mut stream).await {
        counts.requests.fetch_add(1, Ordering::SeqCst);
        // A transaction with a query only reads.
        counts.writes.fetch_add(usize::from(head.contains("/v1/txn ")), Ordering::SeqCst);
        head.clone_into(&mut counts.last.lock().expect("no panic"));
        let request = Request { head, counts: counts.clone() };
        if let Some(act) = &mood {
            return act(stream, request).await;
        }
        let answer = good(&request);
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Reads a request with its body, and returns its head.
pub(crate) async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end].to_vec()).ok()?;
            let length =
                head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
            let left = (end + 4 + length.unwrap_or(0_usize)).saturating_sub(bytes.len());
            stream.read_exact(&mut vec![0; left]).await.ok()?;
            return Some(head);
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

pub(crate) fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len())
}

/// The answer of an empty Consul.
pub(crate) fn good(request: &Request) -> String {
    match request.line() {
        line if line.contains("/v1/txn") => answer("200 OK", "", r#"{"Results":[{"KV":{"ModifyIndex":9}}]}"#),
        line if line.contains("/session/create") => {
            answer("200 OK", "", r#"{"ID":"00000000-0000-0000-0000-000000000001"}"#)
        }
        line if line.contains("/session/") => answer("200 OK", "", "true"),
        _ => answer("404 Not Found", "X-Consul-Index: 7\r\n", ""),
    }
}

/// A server, and a client that has connected to it.
pub(crate) async fn start() -> (Server, Kv) {
    static COUNT_PANICS: Once = Once::new();
    COUNT_PANICS.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            // The test itself reports panics of its own thread.
            let here = info.location().is_some_and(|at| at.file().contains("tests/hostile"));
            PANICS.fetch_add(usize::from(!here), Ordering::SeqCst);
            usual(info);
        }));
    });
    let server = Server::start().await;
    let kv = connect(&server, "500ms").await;
    (server, kv)
}

pub(crate) async fn connect(server: &Server, timeout: &str) -> Kv {
    let registry = Registry::new().with(kv_consul::REGISTRATION).with_environment(Environment::from([]));
    let address = format!("consul://{}?timeout={timeout}&token=secret", server.address);
    registry.connect(&address).await.expect("a good server")
}

/// Makes every kind of call except `lock`, which may wait forever. Returns the errors.
async fn every_call(kv: &Kv) -> Vec<(&'static str, Error)> {
    let mut errors = Vec::new();
    let mut note = |call, result: Result<()>| errors.extend(result.err().map(|error| (call, error)));
    note("get", soon("get", kv.get("key")).await.map(drop));
    note("get by transaction", soon("get", kv.get("key\t")).await.map(drop));
    note("get_all", soon("get_all", kv.get_all("")).await.map(drop));
    note("keys", soon("keys", kv.keys("")).await.map(drop));
    note("ping", soon("ping", kv.ping()).await);
    note("watch", soon("watch", kv.watch("", 0)).await.map(drop));
    note("observe", soon("observe", kv.observe("")).await.map(drop));
    note("set", soon("set", kv.set("key", "value")).await.map(drop));
    note("update", soon("update", kv.update("key", Value::new("value", 1))).await.map(drop));
    note("delete", soon("delete", kv.delete("key")).await);
    note("txn", soon("txn", kv.txn().set("a", "1").set("b", "2").commit()).await.map(drop));
    note("ephemeral_key", soon("ephemeral_key", kv.ephemeral_key("key", TTL)).await.map(drop));
    note("try_lock", soon("try_lock", kv.try_lock("key", TTL)).await.map(drop));
    errors
}

/// Makes every call to a server that has become hostile. Each must fail with a suitable error, or succeed if the answer
/// looks valid. Then the same client must work again once the server behaves.
pub(crate) async fn does_no_harm<F: Future<Output = ()> + Send + 'static>(
    what: &str,
    act: impl Fn(TcpStream, Request) -> F + Send + Sync + 'static,
) -> Vec<(&'static str, Error)> {
    let (server, kv) = start().await;
    server.turn(act);
    let before = server.counts.writes.load(Ordering::SeqCst);
    let errors = every_call(&kv).await;
    for (call, error) in &errors {
        let typed =
            matches!(error, Error::Unavailable { .. } | Error::Indeterminate { .. } | Error::UnexpectedAnswer { .. });
        assert!(typed || error.is_conflict() || error.is_key_not_found(), "{what}: {call}: {error:?}");
        assert!(error.to_string().len() < 1000, "{what}: {call}: {error}");
    }
    // A server that received a complete write may have applied it.
    if server.counts.writes.load(Ordering::SeqCst) > before {
        let retryable = errors.iter().find(|(call, error)| *call == "set" && error.is_retryable());
        assert!(retryable.is_none(), "{what}: {retryable:?}");
    }
    works_again(what, &server, &kv).await;
    errors
}

/// The same as [`does_no_harm`], if no call can succeed.
pub(crate) async fn survives<F: Future<Output = ()> + Send + 'static>(
    what: &str,
    act: impl Fn(TcpStream, Request) -> F + Send + Sync + 'static,
) {
    let errors = does_no_harm(what, act).await;
    assert_eq!(errors.len(), 13, "{what}: some calls succeeded: {errors:?}");
}

pub(crate) async fn works_again(what: &str, server: &Server, kv: &Kv) {
    server.mood.send_replace(None);
    soon(what, async {
        while kv.set("key", "value").await.is_err() || kv.watch("", 0).await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(PANICS.load(Ordering::SeqCst), 0, "{what}: something has panicked");
}

/// How often something happens in a second.
pub(crate) async fn in_a_second(count: &AtomicUsize) -> usize {
    let (before, began) = (count.load(Ordering::SeqCst), Instant::now());
    sleep(Duration::from_secs(1)).await;
    // The pause takes longer on a busy machine.
    let millis = usize::try_from(began.elapsed().as_millis()).expect("not so long");
    (count.load(Ordering::SeqCst) - before) * 1000 / millis
}

/// Sends a head, and then repeats a piece forever.
pub(crate) async fn floods(mut stream: TcpStream, request: Request, head: String, piece: Vec<u8>) {
    let _ = stream.write_all(head.as_bytes()).await;
    while stream.write_all(&piece).await.is_ok() {
        request.counts.bytes.fetch_add(piece.len(), Ordering::SeqCst);
    }
}
