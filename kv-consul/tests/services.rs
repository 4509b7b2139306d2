//! What is no Consul, or none that can serve: each gives a clear error in time.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use kv_core::{Error, Kv};
use support::registry;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// What a fake server does once it has read a request.
enum Then {
    Answer(String),
    /// Ends the connection.
    Cut,
    /// Says nothing.
    Hang,
    /// Sends one after another of these, for ever.
    Flood(String),
}

/// A server that does to each request what it is told, by its first line.
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

/// As Consul answers when there is nothing.
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

/// A port that nothing listens on.
async fn closed() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    listener.local_addr().expect("an address").to_string()
}

#[tokio::test]
async fn a_closed_port() {
    let (error, time) = refused(&format!("consul://{}", closed().await)).await;
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    assert!(error.to_string().contains("refused"), "{error}");
    assert!(time < Duration::from_secs(3), "{time:?}");
}

#[tokio::test]
async fn a_server_that_says_nothing() {
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
    // The head comes again and again, which is as wrong as what is in between.
    let kv = connect(&format!("consul://{server}")).await;
    let error = kv.get("key").await.expect_err("no value");
    assert!(matches!(error, Error::UnexpectedAnswer { .. } | Error::Unavailable { .. }), "{error:?}");
}

#[tokio::test]
async fn what_became_of_a_write_is_told() {
    let server = fake(|line| match line {
        line if line.contains("/cut") => Then::Cut,
        line if line.contains("/v1/txn") => Then::Cut,
        _ => nothing(),
    })
    .await;
    let kv = connect(&format!("consul://{server}")).await;
    let error = kv.set("key", "1").await.expect_err("the connection was cut");
    assert!(matches!(error, Error::Indeterminate { .. }), "{error:?}");
    let error = kv.get("cut").await.expect_err("the connection was cut");
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");

    let silent = fake(|line| if line.contains("/v1/txn") { Then::Hang } else { nothing() }).await;
    let kv = connect(&format!("consul://{silent}?timeout=300ms")).await;
    let error = kv.set("key", "1").await.expect_err("no answer");
    assert!(matches!(error, Error::Indeterminate { .. }), "{error:?}");
    // Nothing but checks is sent again without harm.
    let error = kv.remove("key", 0).await.expect_err("no answer");
    assert!(matches!(error, Error::Indeterminate { .. } | Error::Unavailable { .. }), "{error:?}");
}

#[tokio::test]
async fn errors_of_the_server_are_read() {
    let cases = [
        ("no leader", "500 Internal Server Error", "No cluster leader", true, false),
        ("lost leadership", "500 Internal Server Error", "leadership lost while committing log", false, true),
        ("too many", "429 Too Many Requests", "Your IP is issuing too many concurrent connections", true, false),
        ("nonsense", "500 Internal Server Error", "strconv.ParseUint: parsing \"x\": invalid syntax", false, false),
    ];
    for (what, status, text, unavailable, indeterminate) in cases {
        let server = fake(move |line| if line.contains("/v1/txn") { answer(status, "", text) } else { nothing() });
        let kv = connect(&format!("consul://{}", server.await)).await;
        let error = kv.set("key", "1").await.expect_err(what);
        assert_eq!(matches!(error, Error::Unavailable { .. }), unavailable, "{what}: {error:?}");
        assert_eq!(matches!(error, Error::Indeterminate { .. }), indeterminate, "{what}: {error:?}");
        assert!(error.to_string().contains(&text[..8]), "{what}: {error}");
    }
}

#[tokio::test]
async fn the_next_agent_is_asked() {
    let good = || {
        fake(|line| match line {
            line if line.contains("/v1/txn") => answer("200 OK", "", r#"{"Results":[{"KV":{"ModifyIndex":9}}]}"#),
            _ => nothing(),
        })
    };
    // Nothing was sent, so a write goes on as well; an agent without a leader applies nothing either.
    let leaderless = fake(|_| answer("500 Internal Server Error", "", "No cluster leader")).await;
    for bad in [closed().await, leaderless] {
        let kv = connect(&format!("consul://{bad},{}", good().await)).await;
        assert_eq!(kv.set("key", "1").await.expect("a write at the second agent"), 9);
    }
    // A read goes on from an agent that says nothing.
    let silent = fake(|_| Then::Hang).await;
    let kv = connect(&format!("consul://{silent},{}?timeout=2s", good().await)).await;
    assert!(kv.get("key").await.is_err_and(|error| error.is_key_not_found()));
    // A write does not go on once it was sent.
    let greedy = fake(|line| if line.contains("/v1/txn") { Then::Cut } else { nothing() }).await;
    let kv = connect(&format!("consul://{greedy},{}", good().await)).await;
    assert!(matches!(kv.set("key", "1").await, Err(Error::Indeterminate { .. })));
    assert_eq!(kv.set("key", "1").await.expect("the next write begins with the next agent"), 9);
}

#[tokio::test]
async fn secrets_are_told_to_nobody_but_the_server() {
    let server = closed().await;
    let address = format!("consul://user:hunter2@{server}?token=hunter3");
    let (error, _) = refused(&address).await;
    let told = format!("{error} {error:?}");
    assert!(!told.contains("hunter"), "{told}");
}
