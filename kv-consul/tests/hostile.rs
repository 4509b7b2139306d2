//! Servers that mean no good: whatever they answer, each call ends in time with an error that says so, takes a bounded
//! amount of memory, and leaves a client that works once the server does.

use std::panic;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use futures_util::future::join_all;
use kv_core::{Environment, Error, Kv, Registry, Result, Value};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// Only ever waited out by what has failed.
const PATIENCE: Duration = Duration::from_secs(30);

const TTL: Duration = Duration::from_secs(10);

static PANICS: AtomicUsize = AtomicUsize::new(0);

type Act = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What is done to a request, and to the connection that it came on.
type OnRequest = Arc<dyn Fn(TcpStream, Request) -> Act + Send + Sync>;

/// A request, which has been read whole.
struct Request {
    head: String,
    counts: Counts,
}

impl Request {
    fn line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }
}

/// What has passed.
#[derive(Clone, Default)]
struct Counts {
    requests: Arc<AtomicUsize>,
    /// Those that may have written.
    writes: Arc<AtomicUsize>,
    /// Bytes of evil answers that clients took.
    bytes: Arc<AtomicUsize>,
    /// The head of the last request.
    last: Arc<Mutex<String>>,
}

/// A server on loopback, good at first.
struct Server {
    address: String,
    counts: Counts,
    /// Nothing: it answers as a Consul does.
    mood: watch::Sender<Option<OnRequest>>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        let (mood, moods) = watch::channel(None);
        let counts = Counts::default();
        tokio::spawn(accept(listener, moods, counts.clone()));
        Self { address, counts, mood }
    }

    /// Ends all connections, and does this to each request from now on.
    fn turn<F: Future<Output = ()> + Send + 'static>(
        &self,
        act: impl Fn(TcpStream, Request) -> F + Send + Sync + 'static,
    ) {
        self.mood.send_replace(Some(Arc::new(move |stream, request| Box::pin(act(stream, request)))));
    }
}

async fn accept(listener: TcpListener, moods: watch::Receiver<Option<OnRequest>>, counts: Counts) {
    // Dropped with the sender of moods, and the connections with it.
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
        counts.writes.fetch_add(usize::from(head.contains("/v1/txn")), Ordering::SeqCst);
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

/// Reads a request with its body, and gives its head.
async fn read_request(stream: &mut TcpStream) -> Option<String> {
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

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len())
}

/// As a Consul with nothing in it answers.
fn good(request: &Request) -> String {
    match request.line() {
        line if line.contains("/v1/txn") => answer("200 OK", "", r#"{"Results":[{"KV":{"ModifyIndex":9}}]}"#),
        line if line.contains("/session/create") => {
            answer("200 OK", "", r#"{"ID":"00000000-0000-0000-0000-000000000001"}"#)
        }
        line if line.contains("/session/") => answer("200 OK", "", "true"),
        _ => answer("404 Not Found", "X-Consul-Index: 7\r\n", ""),
    }
}

/// A good server, and a client that has connected to it.
async fn start() -> (Server, Kv) {
    static COUNT_PANICS: Once = Once::new();
    COUNT_PANICS.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            // Those of a failing test are told by that.
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
    let registry = Registry::new().with(kv_consul::REGISTRATION).with_environment(Environment::from([]));
    let address = format!("consul://{}?timeout={timeout}&token=secret", server.address);
    registry.connect(&address).await.expect("a good server")
}

/// Fails the test if it takes too long.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what}: nothing within {PATIENCE:?}"))
}

/// Makes every kind of call but `lock`, which may wait for ever; gives the errors.
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

/// Makes every call of a server that has turned evil, and requires that each fails as it should, or succeeds if the
/// answer may be taken for good; then that the same client works again with the server good.
async fn does_no_harm<F: Future<Output = ()> + Send + 'static>(
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
    // One who received a write whole may have applied it.
    if server.counts.writes.load(Ordering::SeqCst) > before {
        let retryable = errors.iter().find(|(call, error)| *call == "set" && error.is_retryable());
        assert!(retryable.is_none(), "{what}: {retryable:?}");
    }
    works_again(what, &server, &kv).await;
    errors
}

/// As [`does_no_harm`], where no call can succeed.
async fn survives<F: Future<Output = ()> + Send + 'static>(
    what: &str,
    act: impl Fn(TcpStream, Request) -> F + Send + Sync + 'static,
) {
    let errors = does_no_harm(what, act).await;
    assert_eq!(errors.len(), 13, "{what}: some calls succeeded: {errors:?}");
}

async fn works_again(what: &str, server: &Server, kv: &Kv) {
    server.mood.send_replace(None);
    soon(what, async {
        while kv.set("key", "value").await.is_err() || kv.watch("", 0).await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(PANICS.load(Ordering::SeqCst), 0, "{what}: something has panicked");
}

/// What happens within a second.
async fn in_a_second(count: &AtomicUsize) -> usize {
    let (before, began) = (count.load(Ordering::SeqCst), Instant::now());
    sleep(Duration::from_secs(1)).await;
    // A machine that stood still had longer.
    let millis = usize::try_from(began.elapsed().as_millis()).expect("not so long");
    (count.load(Ordering::SeqCst) - before) * 1000 / millis
}

/// Sends a head, then one after another of these for ever.
async fn floods(mut stream: TcpStream, request: Request, head: String, piece: Vec<u8>) {
    let _ = stream.write_all(head.as_bytes()).await;
    while stream.write_all(&piece).await.is_ok() {
        request.counts.bytes.fetch_add(piece.len(), Ordering::SeqCst);
    }
}

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nX-Consul-Index: 9\r\nTransfer-Encoding: chunked\r\n\r\n";

#[tokio::test]
async fn a_body_without_end() {
    let chunk = format!("8000\r\n{}\r\n", "x".repeat(0x8000)).repeat(8).into_bytes();
    let flood = move |stream, request| floods(stream, request, CHUNKED.to_owned(), chunk.clone());
    let (server, kv) = start().await;
    server.turn(flood.clone());
    let error = soon("get", kv.get("key")).await.expect_err("no value");
    assert!(matches!(error, Error::UnexpectedAnswer { .. } | Error::Unavailable { .. }), "{error:?}");
    // What is read of one value, and what was under way.
    let bytes = server.counts.bytes.load(Ordering::SeqCst);
    assert!(bytes < 64 << 20, "{bytes} bytes");
    works_again("a body", &server, &kv).await;
    survives("a body", flood).await;
}

#[tokio::test]
async fn lengths_that_nothing_has() {
    for length in ["18446744073709551615", "9223372036854775807", "1000000000000", "-1", "99999999999999999999", "x"] {
        let head = format!("HTTP/1.1 200 OK\r\nX-Consul-Index: 9\r\nContent-Length: {length}\r\n\r\n[");
        survives(length, move |stream, request| floods(stream, request, head.clone(), vec![b' '; 4096])).await;
    }
    for size in ["ffffffffffffffff", "7fffffffffffffff", "fffffffffffffffff", "-1", "x", ""] {
        let head = format!("{CHUNKED}{size}\r\n[");
        survives(size, move |stream, request| floods(stream, request, head.clone(), vec![b' '; 4096])).await;
    }
}

#[tokio::test]
async fn heads_without_end() {
    let pieces = [
        ("headers", "HTTP/1.1 200 OK\r\n", b"X-Header: value\r\n".repeat(100)),
        ("a header", "HTTP/1.1 200 OK\r\nX-Header: ", vec![b'x'; 4096]),
        ("a status line", "HTTP/1.1 200 ", vec![b'x'; 4096]),
        ("promises", "", b"HTTP/1.1 100 Continue\r\n\r\n".repeat(100)),
        ("trailers", &format!("{CHUNKED}0\r\n"), b"X-Trailer: value\r\n".repeat(100)),
    ];
    for (what, head, piece) in pieces {
        let head = head.to_owned();
        survives(what, move |stream, request| floods(stream, request, head.clone(), piece.clone())).await;
    }
}

#[tokio::test]
async fn an_answer_a_byte_at_a_time() {
    let answers = [answer("200 OK", "X-Consul-Index: 9\r\n", &" ".repeat(4096)), format!("{CHUNKED}1000\r\n")];
    for text in answers {
        survives("drips", move |mut stream, _| {
            let text = text.clone();
            async move {
                for byte in text.bytes().chain(std::iter::repeat(b' ')) {
                    if stream.write_all(&[byte]).await.is_err() {
                        return;
                    }
                    sleep(Duration::from_millis(100)).await;
                }
            }
        })
        .await;
    }
}

#[tokio::test]
async fn json_of_the_wrong_kind() {
    let deep = "[".repeat(200_000);
    let entry = |fields: &str| format!(r#"[{{"Key":"key","CreateIndex":1,"ModifyIndex":1{fields}}}]"#);
    let bodies = [
        String::new(),
        "null".to_owned(),
        "[null]".to_owned(),
        "{}".to_owned(),
        "7".to_owned(),
        r#""text""#.to_owned(),
        "[".to_owned(),
        r#"[{"Key":7,"CreateIndex":1,"ModifyIndex":1}]"#.to_owned(),
        r#"[{"Key":"\ud800","CreateIndex":1,"ModifyIndex":1}]"#.to_owned(),
        r#"[{"Key":"key","CreateIndex":-1,"ModifyIndex":1}]"#.to_owned(),
        r#"[{"Key":"key","CreateIndex":1,"ModifyIndex":18446744073709551616}]"#.to_owned(),
        r#"[{"Key":"key","CreateIndex":1,"ModifyIndex":1e400}]"#.to_owned(),
        r#"{"Results":[{"KV":{"ModifyIndex":-1}}]}"#.to_owned(),
        r#"{"Results":{},"Errors":7}"#.to_owned(),
        r#"{"ID":7}"#.to_owned(),
        r#"{"ID":"../../kv/key?recurse"}"#.to_owned(),
        format!(r#"{{"ID":"{}"}}"#, "0".repeat(1 << 20)),
        entry(r#","Value":"not base64""#),
        entry(r#","Value":7"#),
        entry(r#","Value":["AA=="]"#),
        entry(r#","Flags":-1"#),
        entry(&format!(r#","More":{deep}"#)),
        format!("{}{}", deep, "]".repeat(200_000)),
        deep.replace('[', r#"{"KV":"#),
    ];
    for body in bodies {
        let (shown, text) =
            (body.chars().take(80).collect::<String>(), answer("200 OK", "X-Consul-Index: 9\r\n", &body));
        let errors = does_no_harm(&shown, move |mut stream, _| {
            let text = text.clone();
            async move { drop(stream.write_all(text.as_bytes()).await) }
        });
        let errors = errors.await;
        // A write that was answered with nonsense may have been applied.
        let set = errors.iter().find(|(call, _)| *call == "set");
        let told =
            |error: &Error| matches!(error, Error::Indeterminate { .. }) || error.to_string().contains("was applied");
        assert!(set.is_none_or(|(_, error)| told(error)), "{shown}: {set:?}");
    }
}

#[tokio::test]
async fn indices_that_nothing_has() {
    for index in ["18446744073709551615", "18446744073709551616", "-1", "0", "x", "", "1\r\nX-Consul-Index: 2"] {
        for (status, body) in
            [("404 Not Found", ""), ("200 OK", r#"[{"Key":"key","CreateIndex":1,"ModifyIndex":18446744073709551615}]"#)]
        {
            let text = answer(status, &format!("X-Consul-Index: {index}\r\n"), body);
            let act = move |mut stream: TcpStream, _| {
                let text = text.clone();
                async move { drop(stream.write_all(text.as_bytes()).await) }
            };
            does_no_harm(index, act.clone()).await;
            // A watch that began with such an index sees what a good server shows later.
            let (server, kv) = start().await;
            server.turn(act);
            let watch = soon("a watch", kv.watch("", 0)).await;
            works_again(index, &server, &kv).await;
            drop(watch);
        }
    }
}

#[tokio::test]
async fn compressed_answers_are_not_asked_for_or_unpacked() {
    let (server, kv) = start().await;
    let _ = kv.get("key").await;
    let head = server.counts.last.lock().expect("no panic").to_lowercase();
    assert!(!head.contains("accept-encoding"), "{head}");
    // `[]`, stored in the way of gzip.
    let packed = b"\x1f\x8b\x08\0\0\0\0\0\x02\x03\x8b\x8e\x05\0\x29\xbb\x4c\x0d\x02\0\0\0";
    let errors = does_no_harm("gzip", move |mut stream, _| async move {
        let head = format!(
            "HTTP/1.1 200 OK\r\nX-Consul-Index: 9\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n",
            packed.len()
        );
        let _ = stream.write_all(&[head.as_bytes(), packed].concat()).await;
    })
    .await;
    assert!(matches!(&errors[0], ("get", Error::UnexpectedAnswer { .. })), "{errors:?}");
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let elsewhere = Server::start().await;
    for status in ["301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let text =
            answer(status, &format!("Location: http://{}/v1/kv/key\r\nX-Consul-Index: 9\r\n", elsewhere.address), "");
        survives(status, move |mut stream, _| {
            let text = text.clone();
            async move { drop(stream.write_all(text.as_bytes()).await) }
        })
        .await;
    }
    assert_eq!(elsewhere.counts.requests.load(Ordering::SeqCst), 0, "the token went elsewhere");
}

#[tokio::test]
async fn a_query_that_never_waits_is_not_repeated_in_haste() {
    let number = Arc::new(AtomicUsize::new(10));
    // The same index, ever greater ones without a change, ever smaller ones, and errors.
    for what in ["same", "greater", "smaller", "error", "cut"] {
        let (server, kv) = start().await;
        let watch = soon("a watch", kv.watch("", 0)).await.expect("a good server");
        let number = number.clone();
        server.turn(move |mut stream: TcpStream, _| {
            let index = match what {
                "greater" => number.fetch_add(1, Ordering::SeqCst),
                "smaller" => 1_000_000 - number.fetch_add(1, Ordering::SeqCst),
                _ => 7,
            };
            let text = match what {
                "error" => answer("500 Internal Server Error", "", "No cluster leader"),
                "cut" => String::new(),
                _ => answer("404 Not Found", &format!("X-Consul-Index: {index}\r\nConnection: close\r\n"), ""),
            };
            async move { drop(stream.write_all(text.as_bytes()).await) }
        });
        let requests = in_a_second(&server.counts.requests).await;
        assert!((1..80).contains(&requests), "{what}: {requests} requests in a second");
        drop(watch);
        works_again(what, &server, &kv).await;
    }
}

#[tokio::test]
async fn refusals_of_what_was_not_asked_come_to_an_end() {
    let (server, kv) = start().await;
    server.turn(|mut stream, request| async move {
        loop {
            let text = answer("409 Conflict", "", r#"{"Errors":[{"OpIndex":77777,"What":"failed index check"}]}"#);
            let next = async {
                stream.write_all(text.as_bytes()).await.ok()?;
                read_request(&mut stream).await
            };
            if next.await.is_none() {
                return;
            }
            request.counts.requests.fetch_add(1, Ordering::SeqCst);
        }
    });
    // So many at a time that they share transactions.
    let keys: Vec<String> = (0..50).map(|number| format!("key/{number}")).collect();
    let results = soon("the writes", join_all(keys.iter().map(|key| kv.set(key, "value")))).await;
    for result in results {
        let error = result.expect_err("a refusal");
        assert!(matches!(error, Error::UnexpectedAnswer { .. } | Error::Indeterminate { .. }), "{error:?}");
    }
    // Nothing goes on in the background.
    soon("quiet", async { while in_a_second(&server.counts.requests).await > 0 {} }).await;
    works_again("refusals", &server, &kv).await;
}

#[tokio::test]
async fn a_lock_that_is_taken_and_free_at_once_is_not_tried_in_haste() {
    let (server, kv) = start().await;
    server.turn(|mut stream, mut request| async move {
        loop {
            let text = match request.line() {
                line if line.contains("/v1/txn") => {
                    answer("409 Conflict", "", r#"{"Errors":[{"OpIndex":0,"What":"key already exists"}]}"#)
                }
                _ => good(&request),
            };
            let next = async {
                stream.write_all(text.as_bytes()).await.ok()?;
                read_request(&mut stream).await
            };
            let Some(head) = next.await else { return };
            request.counts.requests.fetch_add(1, Ordering::SeqCst);
            request.head = head;
        }
    });
    let locking = tokio::spawn({
        let kv = kv.clone();
        // The first may meet the connection that has just been ended.
        async move { while kv.lock("key", TTL).await.is_err() {} }
    });
    let requests = in_a_second(&server.counts.requests).await;
    assert!((1..400).contains(&requests), "{requests} requests in a second");
    locking.abort();
    works_again("a lock", &server, &kv).await;
}

#[tokio::test]
async fn writes_that_are_not_answered_hold_up_no_others() {
    let server = Server::start().await;
    // Longer than this test waits: no write is given up before the others are done.
    let kv = connect(&server, "10m").await;
    let came = Arc::new(AtomicUsize::new(0));
    server.turn(move |mut stream, mut request| {
        let came = came.clone();
        async move {
            loop {
                if request.line().contains("/v1/txn") && came.fetch_add(1, Ordering::SeqCst) < 2 {
                    return std::future::pending().await;
                }
                let next = async {
                    stream.write_all(good(&request).as_bytes()).await.ok()?;
                    read_request(&mut stream).await
                };
                let Some(head) = next.await else { return };
                request.head = head;
            }
        }
    });
    // Reads are made once more where a connection has just been ended; writes are not.
    let _ = soon("a new connection", kv.get("key")).await;
    let mut writing: Vec<_> = (0..3)
        .map(|number| {
            let kv = kv.clone();
            tokio::spawn(async move { kv.set(&format!("{number}"), "").await })
        })
        .collect();
    soon("the third", async {
        while writing.iter().filter(|task| task.is_finished()).count() < 1 {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    for done in writing.extract_if(.., |task| task.is_finished()) {
        done.await.expect("no panic").expect("an index");
    }
    assert_eq!(writing.len(), 2, "two were never answered");
    writing.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn a_leader_that_has_not_caught_up_takes_no_lease() {
    let server = Server::start().await;
    let kv = connect(&server, "30s").await;
    let member = kv.ephemeral_key("key", TTL).await.expect("a lease");
    for (known, is_lost) in [(r#"[{"ID":"00000000-0000-0000-0000-000000000001"}]"#, false), ("[]", true)] {
        server.turn(move |mut stream, mut request| async move {
            loop {
                let text = match request.line() {
                    line if line.contains("/session/renew") => {
                        answer("404 Not Found", "", "Session id '00000000-0000-0000-0000-000000000001' not found")
                    }
                    line if line.contains("/session/info") => answer("200 OK", "", known),
                    _ => good(&request),
                };
                let next = async {
                    stream.write_all(text.as_bytes()).await.ok()?;
                    read_request(&mut stream).await
                };
                let Some(head) = next.await else { return };
                request.head = head;
            }
        });
        let error = soon("renew", member.renew()).await.expect_err("not renewed");
        assert_eq!(error.is_lost(), is_lost, "{error:?}");
        assert_eq!(error.is_retryable(), !is_lost, "{error:?}");
    }
}
