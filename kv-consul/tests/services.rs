//! Servers that are not Consul or cannot serve: each gives a clear error in time.

mod support;

use std::time::Duration;

use kv_core::Error;
use support::fake::{Then, answer, closed, connect, fake, nothing, refused};

const TTL: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_closed_port() {
    let closed = closed().await;
    let (error, _) = refused(&format!("consul://{closed}?timeout=500ms")).await;
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    for said in [&format!("{closed} refused the connection"), "within 500ms"] {
        assert!(error.to_string().contains(said), "{said}: {error}");
    }
    // At a generic address another backend may be the right one, so this one does not repeat its attempt.
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
    // The repetition of the head is one more error in the body.
    let kv = connect(&format!("consul://{server}")).await;
    let error = kv.get("key").await.expect_err("no value");
    assert!(matches!(error, Error::UnexpectedAnswer { .. } | Error::Unavailable { .. }), "{error:?}");
}

#[tokio::test]
async fn the_error_of_a_write_reports_its_fate() {
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
    // A transaction that only checks can be repeated without harm.
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
        // A plain write, that of an ephemeral key, and that of a lock.
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

/// The limit of the agent was lowered after the client connected.
#[tokio::test]
async fn a_lowered_limit_of_the_agent_is_reported() {
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
    let shown = format!("{error} {error:?}");
    assert!(!shown.contains("hunter"), "{shown}");
}
