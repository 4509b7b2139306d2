//! Addresses where no etcd serves end in a clear, typed error. A failure that may pass is retried until the timeout.

use std::time::Duration;

use kv_conformance_servers::{Cluster, Kind, Options};
use kv_core::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::support::{server, try_connect};

/// The bytes with which a listener answers.
type Answer = &'static [u8];

/// Listens on loopback. It answers the first bytes of each connection, or it never answers.
async fn listener(answer: Option<Answer>) -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let task = tokio::spawn(async move {
        let mut kept: Vec<TcpStream> = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            if let Some(answer) = answer {
                let mut request = [0; 64];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answer).await;
            }
            kept.push(stream);
        }
    });
    (port, task)
}

async fn error_of(address: &str) -> (Error, Duration) {
    let began = Instant::now();
    let error = try_connect(address).await.expect_err(address);
    (error, began.elapsed())
}

#[tokio::test]
async fn a_closed_port_is_unavailable_once_the_time_is_up() {
    // Nothing listens on port 1.
    let (error, took) = error_of("etcd://127.0.0.1:1?timeout=500ms").await;
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("127.0.0.1:1: cannot connect"), "{error}");
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[tokio::test]
async fn a_port_that_opens_within_the_timeout_is_connected_to() {
    let free = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = free.local_addr().expect("an address").port();
    drop(free);
    let cluster = server().await;
    let address = format!("etcd://127.0.0.1:{port}?timeout=30s");
    let connecting = tokio::spawn(async move { try_connect(&address).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let endpoint = cluster.endpoints().swap_remove(0);
    let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("the same port");
    let relaying = tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut far = TcpStream::connect(&endpoint).await.expect("etcd");
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
        }
    });
    connecting.await.expect("no panic").expect("it opened in time");
    relaying.abort();
    cluster.stop().await;
}

#[tokio::test]
async fn a_server_of_another_kind_fails_at_once_with_unexpected_answer() {
    let answers: [Answer; 3] = [
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        b"-ERR unknown command 'PRI'\r\n-ERR unknown command 'SM'\r\n",
        &[0xff; 4096],
    ];
    for answer in answers {
        let (port, task) = listener(Some(answer)).await;
        let (error, took) = error_of(&format!("etcd://127.0.0.1:{port}")).await;
        assert!(matches!(error, Error::UnexpectedAnswer { .. }), "{error}");
        assert!(error.to_string().contains("does not speak gRPC"), "{error}");
        assert!(took < Duration::from_secs(2), "{took:?}");
        let (error, _) = error_of(&format!("etcds://127.0.0.1:{port}?ca={}", certificate())).await;
        assert!(matches!(error, Error::UnexpectedAnswer { .. }), "{error}");
        task.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn consul_is_not_taken_for_etcd() {
    let consul = Cluster::start(Kind::Consul, 1, Options::default()).await.expect("Consul starts");
    for scheme in ["etcd", "http"] {
        let (error, took) = error_of(&format!("{scheme}://{}", consul.endpoints()[0])).await;
        assert!(error.to_string().contains("does not speak gRPC"), "{error}");
        assert!(took < Duration::from_secs(2), "{took:?}");
    }
    consul.stop().await;
    let etcd = server().await;
    let kv = try_connect(&format!("http://{}/root", etcd.endpoints()[0])).await.expect("etcd answers as etcd");
    assert_eq!((kv.backend_name(), kv.root()), ("etcd", "root/"));
    etcd.stop().await;
}

/// A file with some certificate, for connections that fail before it is used.
fn certificate() -> String {
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/etcd/some-ca.pem").to_owned()
}

#[tokio::test]
async fn a_host_that_accepts_and_is_silent_is_unavailable_before_the_timeout() {
    let (port, task) = listener(None).await;
    for scheme in ["etcd", "etcds"] {
        let ca = if scheme == "etcds" { format!("&ca={}", certificate()) } else { String::new() };
        let (error, took) = error_of(&format!("{scheme}://127.0.0.1:{port}?timeout=1s{ca}")).await;
        assert!(matches!(error, Error::Unavailable { .. }), "{error}");
        assert!(error.to_string().contains(&format!("127.0.0.1:{port}: no answer so far")), "{error}");
        assert!(took < Duration::from_secs(2), "{took:?}");
    }
    task.abort();
}

#[tokio::test]
async fn a_host_that_does_not_even_accept_is_unavailable_before_the_timeout() {
    // With a full queue of pending connections, the kernel drops the packets of the next one, as a firewall does.
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let full = socket.listen(1).expect("a listener");
    let address = full.local_addr().expect("an address");
    let mut pending = Vec::new();
    while let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
        pending.push(stream);
    }
    let (error, took) = error_of(&format!("etcd://{address}?timeout=1s")).await;
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[tokio::test]
async fn endpoints_that_do_not_serve_are_skipped() {
    let cluster = server().await;
    let (silent, task) = listener(None).await;
    let (other, other_task) = listener(Some(b"HTTP/1.1 400 Bad Request\r\n\r\n")).await;
    let endpoint = cluster.endpoints().swap_remove(0);
    let began = Instant::now();
    let address = format!("etcd://127.0.0.1:1,127.0.0.1:{silent},127.0.0.1:{other},{endpoint}");
    let kv = try_connect(&address).await.expect("the last endpoint serves");
    kv.set("key", "value").await.expect("a write");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    task.abort();
    other_task.abort();
    cluster.stop().await;
}

#[tokio::test]
async fn a_write_that_was_not_sent_is_not_indeterminate() {
    let cluster = server().await;
    let kv = try_connect(&format!("{}?timeout=1s", cluster.address())).await.expect("etcd answers");
    kv.set("key", "value").await.expect("a write");
    cluster.kill(0).await.expect("a fault");
    // The first one may have been in flight on the connection that broke.
    let _ = kv.set("key", "value").await;
    let error = kv.set("key", "value").await.expect_err("nobody is there");
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    cluster.start_again(0).await.expect("a healed fault");
    kv.set("key", "value").await.expect("the same handle serves again");
    cluster.stop().await;
}
