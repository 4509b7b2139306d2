//! A relay that puts a server some way off: every byte arrives later, in order, and any number of bytes at once.
//!
//! Measured behind it, times become counts of round trips, which are nearly the same on every machine.
//!
//! ```no_run
//! # async fn run() -> std::io::Result<()> {
//! use std::time::Duration;
//!
//! use kv_conformance::chaos::distance::Distance;
//!
//! let relay = Distance::to("127.0.0.1:2379", Duration::from_millis(100)).await?;
//! let address = format!("etcd://{}", relay.endpoint());
//! # Ok(())
//! # }
//! ```

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// A relay on a port of 127.0.0.1. It ends when it is dropped; its connections end with their clients.
#[derive(Debug)]
pub struct Distance {
    endpoint: String,
    connections: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Distance {
    /// Listens on a free port for connections to `server` (`host:port`), which is then `round_trip` away.
    ///
    /// Half of the round trip passes in each direction. What a client sends first arrives one round trip later still,
    /// because the handshake of TCP takes one, and the relay itself has answered that at once.
    ///
    /// # Errors
    /// The operating system's error of listening.
    pub async fn to(server: impl Into<String>, round_trip: Duration) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = listener.local_addr()?.to_string();
        let connections = Arc::new(AtomicUsize::new(0));
        let (server, count) = (server.into(), Arc::clone(&connections));
        let clock = Clock::start()?;
        let accepting = tokio::spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else {
                    // Possibly no file descriptor is free; a connection that ends frees some.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                };
                count.fetch_add(1, Ordering::Relaxed);
                let begins = Instant::now() + round_trip;
                tokio::spawn(connection(client, server.clone(), Arc::clone(&clock), begins, round_trip / 2));
            }
        });
        Ok(Self { endpoint, connections, accepting })
    }

    /// The address for clients: `127.0.0.1:port`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// How many connections were made so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Distance {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn connection(client: TcpStream, server: String, clock: Arc<Clock>, begins: Instant, delay: Duration) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    tokio::spawn(pass(from_client, to_server, Arc::clone(&clock), begins, delay));
    pass(from_server, to_client, clock, begins, delay).await;
}

/// Forwards one direction, each piece `delay` after it came, and its end.
async fn pass(mut from: OwnedReadHalf, to: OwnedWriteHalf, clock: Arc<Clock>, begins: Instant, delay: Duration) {
    // Without a bound: a line holds what is on its way, however much that is.
    let (sender, pieces) = mpsc::unbounded_channel();
    let writing = tokio::spawn(deliver(pieces, to, clock));
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let due = Instant::now().max(begins) + delay;
        if sender.send((due, buffer[..length].to_vec())).is_err() {
            break;
        }
    }
    drop(sender);
    let _ = writing.await;
}

async fn deliver(mut pieces: mpsc::UnboundedReceiver<(Instant, Vec<u8>)>, mut to: OwnedWriteHalf, clock: Arc<Clock>) {
    while let Some((due, piece)) = pieces.recv().await {
        clock.sleep_until(due).await;
        if to.write_all(&piece).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

/// Wakes tasks on time to some ten microseconds, from a thread of its own: tokio's timers know milliseconds only.
#[derive(Debug)]
struct Clock(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    sleepers: Mutex<Sleepers>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Sleepers {
    /// The number tells those apart that wake at the same time.
    wake: BTreeMap<(Instant, usize), oneshot::Sender<()>>,
    number: usize,
    ended: bool,
}

impl Shared {
    fn sleepers(&self) -> MutexGuard<'_, Sleepers> {
        self.sleepers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut sleepers = self.sleepers();
        while !sleepers.ended {
            let now = Instant::now();
            let next = sleepers.wake.first_key_value().map(|(&(due, _), _)| due);
            sleepers = match next {
                Some(due) if due <= now => {
                    if let Some((_, sleeper)) = sleepers.wake.pop_first() {
                        let _ = sleeper.send(());
                    }
                    sleepers
                }
                Some(due) => match self.changed.wait_timeout(sleepers, due - now) {
                    Ok((sleepers, _)) => sleepers,
                    Err(poisoned) => poisoned.into_inner().0,
                },
                None => self.changed.wait(sleepers).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

impl Clock {
    fn start() -> io::Result<Arc<Self>> {
        let shared = Arc::new(Shared::default());
        let running = Arc::clone(&shared);
        std::thread::Builder::new().name("distance".to_owned()).spawn(move || running.run())?;
        Ok(Arc::new(Self(shared)))
    }

    async fn sleep_until(&self, due: Instant) {
        if due <= Instant::now() {
            return;
        }
        let (sleeper, woken) = oneshot::channel();
        {
            let mut sleepers = self.0.sleepers();
            sleepers.number += 1;
            let number = sleepers.number;
            sleepers.wake.insert((due, number), sleeper);
        }
        self.0.changed.notify_one();
        // It fails only with the clock, which ends with the last connection.
        let _ = woken.await;
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.0.sleepers().ended = true;
        self.0.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_arrive_later_in_order_and_unchanged() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let server = listener.local_addr().expect("an address").to_string();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let (mut from, mut to) = stream.split();
            tokio::io::copy(&mut from, &mut to).await.expect("an echo")
        });
        let round_trip = Duration::from_millis(20);
        let relay = Distance::to(server, round_trip).await.expect("a relay");
        let began = Instant::now();
        let mut stream = TcpStream::connect(relay.endpoint()).await.expect("a connection");
        let sent: Vec<u8> = (0..=255).cycle().take(300_000).collect();
        let (mut from, mut to) = stream.split();
        let mut received = vec![0; sent.len()];
        let (written, read) = tokio::join!(to.write_all(&sent), from.read_exact(&mut received));
        assert!(written.is_ok() && read.is_ok() && received == sent);
        // The handshake takes the first round trip.
        assert!(began.elapsed() >= round_trip * 2);
        assert_eq!(relay.connections(), 1);
    }
}
