//! A TCP proxy that hurts the connections made through it: it cuts, truncates, stalls and delays them, on command or at
//! random.
//!
//! It needs no Docker and no privileges, and the server behind it goes on undisturbed: whoever asks the server itself
//! can tell what became of each request.
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

/// Stands between clients and one server, on a port of 127.0.0.1; its connections end when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    endpoint: String,
    orders: watch::Sender<Orders>,
    counts: watch::Receiver<Counts>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free port for connections to `server`, a `host:port`, and passes everything on unharmed at first.
    ///
    /// # Errors
    /// What the operating system says of listening.
    pub async fn start(server: impl Into<String>) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = listener.local_addr()?.to_string();
        let (orders, obeyed) = watch::channel(Orders::default());
        let (counting, counts) = watch::channel(Counts::default());
        let accepting = tokio::spawn(accept(listener, server.into(), obeyed, Arc::new(counting)));
        Ok(Self { endpoint, orders, counts, accepting })
    }

    /// Where clients connect to: `127.0.0.1:port`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Hurts every connection at random from now on, until [`heal`](Self::heal).
    pub fn hurt_at_random(&self, faults: RandomFaults) {
        self.orders.send_modify(|orders| orders.faults = Some(faults));
    }

    /// Forwards everything again. Stalled connections continue; connections that were cut stay closed.
    pub fn heal(&self) {
        self.orders.send_modify(|orders| {
            (orders.faults, orders.stalled, orders.refusing) = (None, false, false);
        });
    }

    /// Ends every connection that is open now.
    pub fn cut(&self, cut: Cut) {
        self.orders.send_modify(|orders| (orders.cut, orders.cuts) = (Some(cut), orders.cuts + 1));
    }

    /// Passes nothing on, with connections left open and new ones accepted, until [`heal`](Self::heal).
    pub fn stall(&self) {
        self.orders.send_modify(|orders| orders.stalled = true);
    }

    /// [Closes](Cut::Close) a connection as soon as its client sends something, and forwards none of it, until
    /// [`heal`](Self::heal). The server never sees the request.
    pub fn refuse(&self) {
        self.orders.send_modify(|orders| orders.refusing = true);
    }

    /// What was done so far.
    pub fn counts(&self) -> Counts {
        *self.counts.borrow()
    }

    /// Waits until the counts are as asked for, and returns them.
    pub async fn wait_for(&self, mut wanted: impl FnMut(&Counts) -> bool) -> Counts {
        let mut counts = self.counts.clone();
        // They stay behind when the runtime that counted has ended, and nothing is to come any more.
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
