//! A TCP proxy that injects faults into connections: it cuts, truncates, stalls and delays them, on command or at
//! random.
//!
//! It needs no Docker and no privileges. The server behind it is not affected, so a client that connects directly can
//! check what became of each request.
//!
//! ```no_run
//! # async fn run() -> std::io::Result<()> {
//! use kv_conformance::chaos::proxy::{Proxy, RandomFaults};
//!
//! let proxy = Proxy::start("127.0.0.1:2379").await?;
//! proxy.hurt_at_random(RandomFaults::seeded(7));
//! let address = format!("etcd://{}", proxy.endpoint());
//! // … a client works at the address …
//! proxy.wait_for(|counts| counts.cuts() >= 500).await;
//! proxy.heal();
//! # Ok(())
//! # }
//! ```

mod connection;
mod orders;

use std::io;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use orders::{Counts, Cut, RandomFaults};

use connection::accept;
use orders::Orders;

/// A proxy between clients and one server, on a port of 127.0.0.1. Its connections end when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    endpoint: String,
    orders: watch::Sender<Orders>,
    counts: watch::Receiver<Counts>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free port for connections to `server` (`host:port`) and forwards everything at first.
    ///
    /// # Errors
    /// The operating system's error of listening.
    pub async fn start(server: impl Into<String>) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = listener.local_addr()?.to_string();
        let (orders, obeyed) = watch::channel(Orders::default());
        let (counting, counts) = watch::channel(Counts::default());
        let accepting = tokio::spawn(accept(listener, server.into(), obeyed, Arc::new(counting)));
        Ok(Self { endpoint, orders, counts, accepting })
    }

    /// The address for clients: `127.0.0.1:port`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Injects random faults into every connection from now on, until [`heal`](Self::heal).
    pub fn hurt_at_random(&self, faults: RandomFaults) {
        self.orders.send_modify(|orders| orders.faults = Some(faults));
    }

    /// Forwards everything again. Stalled connections continue; connections that were cut stay closed.
    pub fn heal(&self) {
        self.orders.send_modify(|orders| {
            (orders.faults, orders.stalled, orders.refusing) = (None, false, false);
        });
    }

    /// Ends every open connection.
    pub fn cut(&self, cut: Cut) {
        self.orders.send_modify(|orders| (orders.cut, orders.cuts) = (Some(cut), orders.cuts + 1));
    }

    /// Forwards nothing until [`heal`](Self::heal). Connections stay open, and new ones are accepted.
    pub fn stall(&self) {
        self.orders.send_modify(|orders| orders.stalled = true);
    }

    /// [Closes](Cut::Close) a connection as soon as its client sends something, and forwards none of it, until
    /// [`heal`](Self::heal). The server never sees the request.
    pub fn refuse(&self) {
        self.orders.send_modify(|orders| orders.refusing = true);
    }

    /// Returns the counts so far.
    pub fn counts(&self) -> Counts {
        *self.counts.borrow()
    }

    /// Waits until the counts satisfy a condition, and returns them.
    pub async fn wait_for(&self, mut wanted: impl FnMut(&Counts) -> bool) -> Counts {
        let mut counts = self.counts.clone();
        // The sender is gone if the proxy's runtime has ended: no count will change any more.
        let reached = counts.wait_for(|counts| wanted(counts)).await.map(|reached| *reached);
        match reached {
            Ok(reached) => reached,
            Err(_ended) => std::future::pending().await,
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}
