//! A fake server on loopback, which answers what a test chooses.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kv_core::{Error, Kv};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::registry;

/// What a fake server does after a request.
pub(crate) enum Then {
    Answer(String),
    /// Closes the connection.
    Cut,
    /// Answers, then closes the connection without saying so before.
    AnswerAndCut(String),
    /// Does not answer.
    Hang,
    /// Repeats this piece forever.
    Flood(String),
}

/// A server that chooses its behaviour by the first line of each request.
pub(crate) async fn fake(then: impl Fn(&str) -> Then + Send + Sync + 'static) -> String {
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

pub(crate) fn answer(status: &str, headers: &str, body: &str) -> Then {
    Then::Answer(format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len()))
}

/// Consul's answer if the key does not exist.
pub(crate) fn nothing() -> Then {
    answer("404 Not Found", "X-Consul-Index: 7\r\n", "")
}

pub(crate) async fn connect(address: &str) -> Kv {
    registry().connect(address).await.expect("what looks like Consul")
}

pub(crate) async fn refused(address: &str) -> (Error, Duration) {
    let began = Instant::now();
    match registry().connect(address).await {
        Ok(_) => panic!("{address} was taken for Consul"),
        Err(error) => (error, began.elapsed()),
    }
}

/// The address of a port on which nothing listens.
pub(crate) async fn closed() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    listener.local_addr().expect("an address").to_string()
}

/// Consul's answer to a write.
pub(crate) const WRITTEN: &str = r#"{"Results":[{"KV":{"ModifyIndex":9}}]}"#;

/// A server that applies every transaction.
pub(crate) async fn good() -> String {
    fake(|line| match line {
        line if line.contains("/v1/txn") => answer("200 OK", "", WRITTEN),
        _ => nothing(),
    })
    .await
}
