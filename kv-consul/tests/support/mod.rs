//! Shared parts of this crate's tests: servers, raw requests to them, and a proxy that counts.
#![allow(dead_code, reason = "each test file uses its own part of this")]

pub(crate) mod fake;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

#[allow(unused_imports, reason = "each test file uses its own part of this")]
pub(crate) use kv_conformance::testing::{PATIENCE, soon, until};
use kv_conformance_servers::{Cluster, Kind, Options};
use kv_core::{Environment, Kv, Registry};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

pub(crate) fn registry() -> Registry {
    Registry::new().with(kv_consul::REGISTRATION).with_environment(Environment::from([]))
}

pub(crate) async fn start(options: Options) -> Cluster {
    Cluster::start(Kind::Consul, 1, options).await.expect("a Consul server")
}

pub(crate) async fn connect(address: &str) -> Kv {
    registry().connect(address).await.expect("a Consul that serves")
}

/// Sends a request to the server at `host:port` without this crate's client.
pub(crate) async fn ask(endpoint: &str, method: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(endpoint).await.expect("a connection");
    let request = format!("{method} {path} HTTP/1.0\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("the request is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()
}

/// Counts the sessions on a server.
pub(crate) async fn sessions(endpoint: &str) -> usize {
    ask(endpoint, "GET", "/v1/session/list").await.matches("\"ID\"").count()
}

/// A proxy that counts requests and connections between clients and a server, and can cut connections.
pub(crate) struct Proxy {
    pub(crate) endpoint: String,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    requests: AtomicUsize,
    open: AtomicUsize,
    most: AtomicUsize,
    closed: AtomicBool,
    cut: Notify,
}

impl Proxy {
    pub(crate) async fn start(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = listener.local_addr().expect("an address").to_string();
        let counts = Arc::new(Counts::default());
        let (shared, server) = (counts.clone(), server.to_owned());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if !shared.closed.load(Ordering::SeqCst) {
                    tokio::spawn(forward(client, server.clone(), shared.clone()));
                }
            }
        });
        Self { endpoint, counts }
    }

    /// How many requests passed so far.
    pub(crate) fn requests(&self) -> usize {
        self.counts.requests.load(Ordering::SeqCst)
    }

    /// The largest number of connections at one time.
    pub(crate) fn most_connections(&self) -> usize {
        self.counts.most.load(Ordering::SeqCst)
    }

    pub(crate) fn connections(&self) -> usize {
        self.counts.open.load(Ordering::SeqCst)
    }

    /// Breaks all connections, and lets no new ones through.
    pub(crate) fn cut(&self) {
        self.counts.closed.store(true, Ordering::SeqCst);
        self.counts.cut.notify_waiters();
    }

    pub(crate) fn heal(&self) {
        self.counts.closed.store(false, Ordering::SeqCst);
    }
}

async fn forward(client: TcpStream, server: String, counts: Arc<Counts>) {
    let open = counts.open.fetch_add(1, Ordering::SeqCst) + 1;
    counts.most.fetch_max(open, Ordering::SeqCst);
    let copying = async {
        let server = TcpStream::connect(server).await?;
        let _ = server.set_nodelay(true);
        let _ = client.set_nodelay(true);
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        let asking = async {
            let mut buffer = vec![0; 64 << 10];
            loop {
                let length = from_client.read(&mut buffer).await?;
                if length == 0 {
                    return std::io::Result::Ok(());
                }
                // A head is nearly always sent in one piece.
                let heads = buffer[..length].windows(11).filter(|window| *window == b" HTTP/1.1\r\n").count();
                counts.requests.fetch_add(heads, Ordering::SeqCst);
                to_server.write_all(&buffer[..length]).await?;
            }
        };
        let answering = tokio::io::copy(&mut from_server, &mut to_client);
        tokio::select! {
            ended = asking => ended,
            ended = answering => ended.map(drop),
        }
    };
    tokio::select! {
        _ = copying => {}
        () = counts.cut.notified() => {}
    }
    counts.open.fetch_sub(1, Ordering::SeqCst);
}
