//! Helpers: servers, connections, and waiting for a condition.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kv_conformance_servers::{Cluster, Kind, Options};
use kv_core::{Environment, Kv, Registry, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// Upper bound; reached only when the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn servers(members: usize, options: Options) -> Cluster {
    Cluster::start(Kind::Etcd, members, options).await.expect("etcd starts")
}

pub(crate) async fn server() -> Cluster {
    servers(1, Options::default()).await
}

/// Connects without the environment of this process.
pub(crate) async fn try_connect(address: &str) -> Result<Kv> {
    let registry = Registry::new().with(kv_etcd::REGISTRATION).with_environment(Environment::from([]));
    registry.connect(address).await
}

pub(crate) async fn connect(address: &str) -> Kv {
    try_connect(address).await.expect("etcd answers")
}

/// Fails the test if it takes too long.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what}: nothing within {PATIENCE:?}"))
}

/// Repeats a check until it holds.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// How many leases the server knows.
pub(crate) async fn leases(cluster: &Cluster) -> usize {
    let output = cluster.exec(0, &["etcdctl", "lease", "list"]).await.expect("etcdctl runs");
    assert_eq!(output.code, 0, "{}", output.stderr);
    // The first line is their number.
    output.stdout.lines().skip(1).filter(|line| !line.trim().is_empty()).count()
}

/// A TCP relay on loopback. It counts the connections made through it, and the open ones.
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
    endpoint: watch::Sender<String>,
    task: JoinHandle<()>,
}

impl Relay {
    pub(crate) async fn to(endpoint: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (connections, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (counter, end_counter) = (Arc::clone(&connections), Arc::clone(&ended));
        let (sender, endpoint) = watch::channel(endpoint.to_owned());
        let task = tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::SeqCst);
                let (mut endpoint, end_counter) = (endpoint.clone(), Arc::clone(&end_counter));
                tokio::spawn(async move {
                    let target = endpoint.borrow_and_update().clone();
                    if let Ok(mut far) = TcpStream::connect(target).await {
                        tokio::select! {
                            _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                            Ok(()) = endpoint.changed() => {}
                        }
                    }
                    end_counter.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, connections, ended, endpoint: sender, task }
    }

    /// Ends every connection, and directs new ones to another endpoint.
    pub(crate) fn turn_to(&self, endpoint: &str) {
        self.endpoint.send_replace(endpoint.to_owned());
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn open(&self) -> usize {
        self.connections() - self.ended.load(Ordering::SeqCst)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}
