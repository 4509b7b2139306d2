//! Servers that are not Consul or cannot serve: each gives a clear error in time.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kv_core::{Error, Kv};
use support::registry;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

const TTL: Duration = Duration::from_secs(10);

/// Consul's answer to a write.
const WRITTEN: &str = r#"{"Results":[{"KV":{"ModifyIndex":9}}]}"#;

/// What a fake server does after a request.
enum Then {
    Answer(String),
    /// Closes the connection.
    Cut,
    AnswerAndCut(String),
    /// Does not answer.
    Hang,
    /// Sends this again and again, for ever.
    Flood(String),
}

/// A server that decides by the first line of each request what to do.
async fn fake(then: impl Fn(&str) -> Then + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let then = Arc::new(then);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let then = then.clone();
            tokio::spawn(async move {
                let mut request = vec![0; 64 << 10];
                loop {
                    let length = stream.read(&mut request).await.unwrap_or_default();
                    if length == 0 {
                        return;
                    }
                    let text = String::from_utf8_lossy(&request[..length]).into_owned();
                    match then(text.lines().next().unwrap_or_default()) {
                        Then::Answer(answer) => {
                            let _ = stream.write_all(answer.as_bytes()).await;
                        }
                        Then::Cut => return,
                        Then::AnswerAndCut(answer) => {
                            let _ = stream.write_all(answer.as_bytes()).await;
                            return;
                        }
                        Then::Hang => std::future::pending().await,
                        Then::Flood(piece) => while stream.write_all(piece.as_bytes()).await.is_ok() {},
                    }
                }
            });
        }
    });
    address.to_string()
}

fn answer(status: &str, headers: &str, body: &str) -> Then {
    Then::Answer(format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len()))
}

/// Consul's answer if there is nothing.
fn nothing() -> Then {
    answer("404 Not Found", "X-Consul-Index: 7\r\n", "")
}

async fn connect(address: &str) -> Kv {
    registry().connect(address).await.expect("what looks like Consul")
}

async fn refused(address: &str) -> (Error, Duration) {
    let began = Instant::now();
    match registry().connect(address).await {
        Ok(_) => panic!("{address} was taken for Consul"),
        Err(error) => (error, began.elapsed()),
    }
}

/// The address of a port on which nothing listens.
async fn closed() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    listener.local_addr().expect("an address").to_string()
}

#[tokio::test]
async fn a_closed_port() {
    let closed = closed().await;
    let (error, _) = refused(&format!("consul://{closed}?timeout=500ms")).await;
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    for said in [&format!("{closed} refused the connection"), "within 500ms"] {
        assert!(error.to_string().contains(said), "{said}: {error}");
    }
    // At a generic address another backend may be the right one, and is not kept waiting.
    let (error, time) = refused(&format!("http://{closed}?timeout=60s")).await;
    let Error::NoneAnswered { attempts } = error else { panic!("{error:?}") };
    assert!(matches!(attempts[0].1, Error::Unavailable { .. }), "{attempts:?}");
    assert!(time < Duration::from_secs(20), "{time:?}");
}

#[tokio::test]
async fn a_server_that_does_not_answer() {
    let silent = fake(|_| Then::Hang).await;
    let (error, time) = refused(&format!("consul://{silent}?timeout=500ms")).await;
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    assert!(time < Duration::from_secs(3), "{time:?}");
}

#[tokio::test]
async fn another_service() {
    let services = [
        ("a page", answer("404 Not Found", "Content-Type: text/plain\r\n", "404 page not found\n")),
        ("a success", answer("200 OK", "Content-Type: text/html\r\n", "<html>welcome</html>")),
        ("a redirect", answer("301 Moved Permanently", "Location: /elsewhere\r\n", "")),
        ("no HTTP", Then::Answer("SSH-2.0-OpenSSH_9.2\r\n\r\n".to_owned())),
        ("a bad request", answer("400 Bad Request", "", "Client sent an HTTP request to an HTTPS server.\n")),
    ];
    for (what, then) in services {
        let Then::Answer(text) = then else { continue };
        let server = fake(move |_| Then::Answer(text.clone())).await;
        let (error, time) = refused(&format!("consul://{server}")).await;
        assert!(matches!(error, Error::UnexpectedAnswer { .. }), "{what}: {error:?}");
        assert!(time < Duration::from_secs(3), "{what}: {time:?}");
        let (error, _) = refused(&format!("http://{server}")).await;
        let Error::NoneAnswered { attempts } = error else { panic!("{what}: {error:?}") };
        assert!(matches!(attempts[0].1, Error::UnexpectedAnswer { .. }), "{what}: {attempts:?}");
    }
}

#[tokio::test]
async fn an_answer_without_end_is_cut_short() {
    let server = fake(|line| {
        if line.contains(".kv-ping") || line.contains("agent/self") {
            return nothing();
        }
        let head = "HTTP/1.1 200 OK\r\nX-Consul-Index: 1\r\nTransfer-Encoding: chunked\r\n\r\n";
        Then::Flood(format!("{head}{}", format!("8000\r\n{}\r\n", "x".repeat(0x8000)).repeat(64)))
    })
    .await;
    // The head is repeated too, which is as wrong as the rest.
    let kv = connect(&format!("consul://{server}")).await;
    let error = kv.get("key").await.expect_err("no value");
    assert!(matches!(error, Error::UnexpectedAnswer { .. } | Error::Unavailable { .. }), "{error:?}");
}

#[tokio::test]
async fn the_error_of_a_write_says_what_is_known_of_it() {
    let server = fake(|line| match line {
        line if line.contains("/cut") => Then::Cut,
        line if line.contains("/v1/txn") => Then::Cut,
        _ => nothing(),
    })
    .await;
    let kv = connect(&format!("consul://{server}?timeout=300ms")).await;
    let error = kv.set("key", "1").await.expect_err("the connection was cut");
    assert!(matches!(error, Error::Indeterminate { .. }), "{error:?}");
    let error = kv.get("cut").await.expect_err("the connection was cut");
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");

    let silent = fake(|line| if line.contains("/v1/txn") { Then::Hang } else { nothing() }).await;
    let kv = connect(&format!("consul://{silent}?timeout=300ms")).await;
    let error = kv.set("key", "1").await.expect_err("no answer");
    assert!(matches!(error, Error::Indeterminate { .. }), "{error:?}");
    // A transaction that only checks can be sent again without harm.
    let error = kv.remove("key", 0).await.expect_err("no answer");
    assert!(matches!(error, Error::Indeterminate { .. } | Error::Unavailable { .. }), "{error:?}");
}

#[tokio::test]
async fn errors_of_the_server_have_their_meaning() {
    let cases = [
        ("no leader", "500 Internal Server Error", "No cluster leader", true, false),
        ("lost leadership", "500 Internal Server Error", "leadership lost while committing log", false, true),
        ("too many", "429 Too Many Requests", "Your IP is issuing too many concurrent connections", true, false),
        ("not now", "503 Service Unavailable", "rate limit exceeded for operation that needs the leader", true, false),
        ("raft", "500 Internal Server Error", "raft apply failed: node is not the leader", true, false),
        ("a proxy", "502 Bad Gateway", "invalid or incomplete response", false, true),
        ("a proxy", "503 Service Unavailable", "No cluster leader", false, true),
        ("a page", "500 Internal Server Error", "<html>No cluster leader</html>", false, true),
        ("a size", "413 Content Too Large", "<html>too large</html>", false, true),
        ("nonsense", "500 Internal Server Error", "strconv.ParseUint: parsing \"x\": invalid syntax", false, false),
    ];
    for (what, status, text, unavailable, indeterminate) in cases {
        // Alone, of a lock, and of an ephemeral key.
        let server = fake(move |line| match line {
            line if line.contains("/v1/txn") => answer(status, "", text),
            line if line.contains("/session/create") => answer("200 OK", "", r#"{"ID":"00000000-0001"}"#),
            line if line.contains("/session/") => answer("200 OK", "", "true"),
            _ => nothing(),
        });
        let server = server.await;
        let kv = connect(&format!("consul://{server}?timeout=300ms")).await;
        for (verb, error) in [
            ("set", kv.set("key", "1").await.err()),
            ("ephemeral_key", kv.ephemeral_key("key", TTL).await.err()),
            ("try_lock", kv.try_lock("key", TTL).await.err()),
        ] {
            let error = error.unwrap_or_else(|| panic!("{what}: {verb} succeeded"));
            assert_eq!(matches!(error, Error::Unavailable { .. }), unavailable, "{what}: {verb}: {error:?}");
            assert_eq!(matches!(error, Error::Indeterminate { .. }), indeterminate, "{what}: {verb}: {error:?}");
            let text = error.to_string();
            assert!(text.contains(&text[..8]) && text.contains(&server), "{what}: {verb}: {text}");
        }
    }
}

/// A server that applies every transaction.
async fn good() -> String {
    fake(|line| match line {
        line if line.contains("/v1/txn") => answer("200 OK", "", WRITTEN),
        _ => nothing(),
    })
    .await
}

#[tokio::test]
async fn the_next_agent_is_asked() {
    // Nothing was sent to the one, and the other applies nothing without a leader, so a write goes on as well.
    let leaderless = fake(|_| answer("500 Internal Server Error", "", "No cluster leader")).await;
    for bad in [closed().await, leaderless] {
        let kv = connect(&format!("consul://{bad},{}", good().await)).await;
        assert_eq!(kv.set("key", "1").await.expect("a write at the second agent"), 9);
    }
    // A read goes on from an agent that does not answer.
    let silent = fake(|_| Then::Hang).await;
    let kv = connect(&format!("consul://{silent},{}?timeout=2s", good().await)).await;
    assert!(kv.get("key").await.is_err_and(|error| error.is_key_not_found()));
}

#[tokio::test]
async fn a_write_that_was_sent_does_not_go_on() {
    let cuts = fake(|line| if line.contains("/v1/txn") { Then::Cut } else { nothing() }).await;
    let address = format!("consul://{cuts},{}", good().await);
    // Agents are asked in random order: connect until the bad one comes first.
    let kv = loop {
        let kv = connect(&address).await;
        match kv.set("key", "1").await {
            Ok(_) => {}
            Err(Error::Indeterminate { .. }) => break kv,
            Err(error) => panic!("{error:?}"),
        }
    };
    assert_eq!(kv.set("key", "1").await.expect("the next write begins with the next agent"), 9);
}

/// As port forwarders do in front of a dead agent.
#[tokio::test]
async fn an_agent_that_accepts_and_cuts_is_asked_last() {
    let cuts = fake(|line| if line.contains("/v1/txn") { Then::Cut } else { nothing() }).await;
    let kv = connect(&format!("consul://{cuts},{},{}", good().await, good().await)).await;
    let mut writing = tokio::task::JoinSet::new();
    for task in 0..8 {
        let kv = kv.clone();
        writing.spawn(async move {
            let mut lost = 0;
            for number in 0..100 {
                match kv.set(&format!("{task}/{number}"), "1").await {
                    Ok(_) => {}
                    Err(Error::Indeterminate { .. }) => lost += 1,
                    Err(error) => panic!("{error:?}"),
                }
            }
            lost
        });
    }
    let lost: usize = writing.join_all().await.into_iter().sum();
    // Only what was in flight when the agent was first asked.
    assert!(lost <= 8, "{lost} writes of unknown outcome");
}

/// As some proxies do, without announcing it. A write on a connection that is just being closed is indeterminate.
#[tokio::test]
async fn an_agent_that_closes_after_each_answer_loses_few_writes() {
    const WRITES: usize = 200;
    let closes = fake(|line| {
        let usual = if line.contains("/v1/txn") { answer("200 OK", "", WRITTEN) } else { nothing() };
        let Then::Answer(text) = usual else { unreachable!("it answers") };
        Then::AnswerAndCut(text)
    });
    let kv = connect(&format!("consul://{}", closes.await)).await;
    let mut lost = 0;
    for number in 0..WRITES {
        match kv.set("key", number.to_string()).await {
            Ok(_) => {}
            Err(Error::Indeterminate { .. }) => lost += 1,
            Err(error) => panic!("{error:?}"),
        }
    }
    assert!(lost <= 2, "{lost} of {WRITES} writes are indeterminate");
}

#[tokio::test]
async fn what_was_not_applied_is_tried_again_until_it_is() {
    for text in [
        "No cluster leader",
        "rpc error getting client: failed to get conn: dial tcp 10.0.0.1:8300: connect: connection refused",
        "rpc error getting client: failed to get conn: rpc error: lead thread didn't get connection",
        "rpc error getting client: stream closed",
        "raft apply failed: leadership transfer in progress",
        "rpc error making call: rate limit exceeded, try again later or against a different server",
        "Missing node registration",
    ] {
        let failures = Arc::new(AtomicUsize::new(0));
        let counted = failures.clone();
        let server = fake(move |line| match line {
            line if line.contains(".kv-ping") || line.contains("agent/self") => nothing(),
            // As many as an election takes, for each kind of request.
            _ if counted.fetch_add(1, Ordering::SeqCst) % 8 != 7 => answer("500 Internal Server Error", "", text),
            line if line.contains("/v1/txn") => answer("200 OK", "", r#"{"Results":[{"KV":{"ModifyIndex":9}}]}"#),
            line if line.contains("/session/create") => answer("200 OK", "", r#"{"ID":"00000000-0001"}"#),
            _ => nothing(),
        });
        let kv = connect(&format!("consul://{}?timeout=30s", server.await)).await;
        assert_eq!(kv.set("key", "1").await.expect(text), 9);
        assert!(kv.get("key").await.is_err_and(|error| error.is_key_not_found()), "{text}");
        let _member = kv.ephemeral_key("member", TTL).await.expect(text);
        assert!(failures.load(Ordering::SeqCst) >= 32, "{text}");
    }
}

/// A read that an agent holds back while the others cannot serve yet.
#[tokio::test]
async fn a_read_that_hangs_at_one_agent_is_answered_by_another() {
    let silent = fake(|line| if line.contains("agent/self") { nothing() } else { Then::Hang }).await;
    // It serves only after the silent agent had its turn as the last of a round.
    let asked = Arc::new(AtomicUsize::new(0));
    let late = fake(move |line| match line {
        line if line.contains("agent/self") => nothing(),
        _ if asked.fetch_add(1, Ordering::SeqCst) < 2 => answer("500 Internal Server Error", "", "No cluster leader"),
        _ => nothing(),
    });
    let kv = connect(&format!("consul://{silent},{}?timeout=60s", late.await)).await;
    let began = Instant::now();
    assert!(kv.get("key").await.is_err_and(|error| error.is_key_not_found()));
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

/// An agent that takes long is not given up: the others may take as long.
#[tokio::test]
async fn a_slow_answer_is_waited_for() {
    let slow = || async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut request = vec![0; 64 << 10];
                    while stream.read(&mut request).await.is_ok_and(|length| length > 0) {
                        tokio::time::sleep(Duration::from_secs(3)).await;
                        let Then::Answer(text) = nothing() else { return };
                        let _ = stream.write_all(text.as_bytes()).await;
                    }
                });
            }
        });
        address
    };
    let kv = connect(&format!("consul://{},{}?timeout=30s", slow().await, slow().await)).await;
    let error = kv.with_timeout(Duration::from_secs(10)).get("key").await.expect_err("nothing is there");
    assert!(error.is_key_not_found(), "{error:?}");
}

/// An agent that takes connections and writes, and answers nothing.
#[tokio::test]
async fn callers_that_give_up_find_another_agent() {
    let (silent, good) = (fake(|_| Then::Hang).await, good().await);
    let kv = connect(&format!("consul://{silent},{good}?timeout=30s")).await;
    for what in ["get", "set"] {
        let mut row = 0;
        let serving = async {
            while row < 10 {
                let call = async {
                    match what {
                        "get" => kv.get("key").await.is_err_and(|error| error.is_key_not_found()),
                        _ => kv.set("key", "1").await.is_ok(),
                    }
                };
                let served = tokio::time::timeout(Duration::from_millis(60), call).await;
                row = if served == Ok(true) { row + 1 } else { 0 };
            }
        };
        support::soon(what, serving).await;
    }
}

/// What a port forwarder before a dead agent does while the others have no leader.
#[tokio::test]
async fn a_write_does_not_meet_a_broken_agent_while_others_cannot_serve() {
    let cuts = fake(|line| if line.contains("agent/self") { nothing() } else { Then::Cut }).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let electing = |asked: Arc<AtomicUsize>| {
        fake(move |line| match line {
            line if line.contains("/v1/txn") && asked.fetch_add(1, Ordering::SeqCst) % 40 < 30 => {
                answer("500 Internal Server Error", "", "No cluster leader")
            }
            line if line.contains("/v1/txn") => answer("200 OK", "", r#"{"Results":[{"KV":{"ModifyIndex":9}}]}"#),
            _ => nothing(),
        })
    };
    let (one, other) = (electing(asked.clone()).await, electing(asked.clone()).await);
    let kv = connect(&format!("consul://{cuts},{one},{other}?timeout=60s")).await;
    let mut unknown = 0;
    for number in 0..20 {
        match kv.set(&format!("key/{number}"), "1").await {
            Ok(_) => {}
            Err(Error::Indeterminate { .. }) => unknown += 1,
            Err(error) => panic!("{error:?}"),
        }
    }
    assert!(unknown <= 1, "{unknown} writes were sent to an agent that was known to be broken");
}

/// A limit that the agent lowered after the client had connected.
#[tokio::test]
async fn a_limit_of_the_agent_is_told() {
    let server = fake(|line| {
        if line.contains("/v1/txn") {
            answer(
                "413 Content Too Large",
                "",
                "Request body(160 bytes) too large, max size: 100 bytes. See https://c.",
            )
        } else {
            nothing()
        }
    });
    let kv = connect(&format!("consul://{}/app?timeout=5s", server.await)).await;
    let error = kv.set("key", "a value").await.expect_err("it is too large");
    // The agent names the key with the root (clause K4).
    assert!(matches!(&error, Error::ValueTooLarge { key, bytes: 7, .. } if key == "key"), "{error:?}");
    let error = kv.txn().set("a", "1").set("b", "2").commit().await.expect_err("it is too large");
    assert!(matches!(&error, Error::TxnTooLarge { max_bytes: 100, .. }), "{error:?}");
}

#[tokio::test]
async fn a_timeout_names_itself_and_the_last_failure() {
    let server = fake(|line| {
        if line.contains(".kv-ping") || line.contains("agent/self") {
            nothing()
        } else {
            answer("500 Internal Server Error", "", "No cluster leader")
        }
    });
    let server = server.await;
    let kv = connect(&format!("consul://{server}")).await.with_timeout(Duration::from_millis(400));
    for error in [kv.get("key").await.expect_err("no leader"), kv.set("key", "1").await.expect_err("no leader")] {
        assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
        for said in ["within 400ms", "No cluster leader", &server] {
            assert!(error.to_string().contains(said), "{said}: {error}");
        }
    }
}

#[tokio::test]
#[cfg(feature = "tls")]
async fn tls_at_a_plain_port_says_so() {
    let plain = fake(|_| answer("400 Bad Request", "Connection: close\r\n", "")).await;
    let (error, time) = refused(&format!("consuls://{plain}")).await;
    assert!(matches!(error, Error::UnexpectedAnswer { .. }), "{error:?}");
    assert!(error.to_string().contains(&format!("{plain} does not speak TLS")), "{error}");
    assert!(time < Duration::from_secs(3), "{time:?}");
}

#[tokio::test]
async fn no_error_contains_a_secret() {
    let server = closed().await;
    let address = format!("consul://user:hunter2@{server}?token=hunter3&timeout=500ms");
    let (error, _) = refused(&address).await;
    let told = format!("{error} {error:?}");
    assert!(!told.contains("hunter"), "{told}");
}
