//! Whether the server at the other end of a connection still responds.
//!
//! A caller may give up after any time, perhaps long before the server can answer. So this does not depend on timeouts
//! of callers: a task of the connection checks what the server sends while callers wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::poll;
use h2::{Ping, PingPong};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// How often the task checks.
const TICK: Duration = Duration::from_millis(500);
/// After this many checks in a row with a waiting call and without any answer, the server is unresponsive.
const UNRESPONSIVE: u32 = 2;
/// After this much silence, a connection with waiting callers sends a ping. etcd closes connections that send one more
/// often than every 5 s (`--grpc-keepalive-min-time`).
const KEEP_ALIVE: Duration = Duration::from_secs(6);
/// How long the answer to a ping may take before the server is silent.
const SILENT: Duration = Duration::from_secs(4);
/// How long the answer to a ping may take before the connection ends. Writes wait until then, because without an answer
/// their outcome is unknown, and another connection does not help.
const DEAD: Duration = Duration::from_secs(30);

/// The state of the server, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Health {
    Good,
    /// A call waits, and no call is answered. The server may be isolated from its cluster, or the work may take long.
    Unresponsive,
    /// The server does not answer a ping.
    Silent,
}

/// Counts what the server sent, and who waits for it.
pub(super) struct Signs {
    bytes: AtomicU32,
    answers: AtomicU32,
    /// The last stream that the server processes, from its GOAWAY.
    last_stream: AtomicU32,
    /// How many wait for anything from the server.
    users: AtomicUsize,
    /// How many of them wait for an answer that the server owes now.
    calls: AtomicUsize,
    health: watch::Sender<Health>,
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) bytes: u32,
    pub(super) answers: u32,
}

impl Default for Signs {
    fn default() -> Self {
        Self {
            bytes: AtomicU32::new(0),
            answers: AtomicU32::new(0),
            last_stream: AtomicU32::new(u32::MAX),
            users: AtomicUsize::new(0),
            calls: AtomicUsize::new(0),
            health: watch::Sender::new(Health::Good),
        }
    }
}

impl Signs {
    pub(super) fn alive(&self) {
        self.bytes.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn answers(&self) {
        self.answers.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn goes_away(&self, last_stream: u32) {
        self.last_stream.fetch_min(last_stream, Ordering::Release);
    }

    /// Whether the server has announced that it does not process this stream.
    pub(super) fn is_unprocessed(&self, stream: u32) -> bool {
        stream > self.last_stream.load(Ordering::Acquire)
    }

    pub(super) fn seen(&self) -> Seen {
        Seen { bytes: self.bytes.load(Ordering::Relaxed), answers: self.answers.load(Ordering::Relaxed) }
    }

    pub(super) fn health(&self) -> Health {
        *self.health.borrow()
    }

    /// Waits until the server is in this state or in a worse one.
    pub(super) async fn worsens_to(&self, health: Health) {
        let mut states = self.health.subscribe();
        let _ = states.wait_for(|now| *now >= health).await;
    }

    fn set(&self, health: Health) {
        self.health.send_if_modified(|now| std::mem::replace(now, health) != health);
    }
}

/// Counts one who waits for the server, until it is dropped.
pub(crate) struct Waiting {
    signs: Arc<Signs>,
    /// Whether the server owes an answer now, unlike events, which may come at any time.
    is_call: bool,
}

impl Waiting {
    pub(super) fn new(signs: &Arc<Signs>, is_call: bool) -> Self {
        signs.users.fetch_add(1, Ordering::Relaxed);
        signs.calls.fetch_add(usize::from(is_call), Ordering::Relaxed);
        Self { signs: Arc::clone(signs), is_call }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.signs.users.fetch_sub(1, Ordering::Relaxed);
        self.signs.calls.fetch_sub(usize::from(self.is_call), Ordering::Relaxed);
    }
}

/// Monitors a connection. It ends when the server has not answered a ping for [`DEAD`].
pub(super) async fn look_after(pings: Option<PingPong>, signs: Arc<Signs>) {
    let Some(mut pings) = pings else { return std::future::pending().await };
    let (mut seen, mut quiet) = (signs.seen(), 0);
    let (mut last_sign, mut pinged): (Instant, Option<Instant>) = (Instant::now(), None);
    loop {
        sleep(TICK).await;
        let now = signs.seen();
        let waited_for = signs.calls.load(Ordering::Relaxed) > 0;
        quiet = if waited_for && now.answers == seen.answers { quiet + 1 } else { 0 };
        if now.bytes != seen.bytes {
            (last_sign, pinged) = (Instant::now(), None);
        }
        seen = now;
        // The answer to a ping was counted with the other bytes. h2 needs it to be taken before the next ping.
        let _ = poll!(std::future::poll_fn(|cx| pings.poll_pong(cx)));
        let used = signs.users.load(Ordering::Relaxed) > 0;
        if used && pinged.is_none() && last_sign.elapsed() >= KEEP_ALIVE && pings.send_ping(Ping::opaque()).is_ok() {
            pinged = Some(Instant::now());
        }
        let silence = pinged.map_or(Duration::ZERO, |since| since.elapsed());
        signs.set(match quiet {
            _ if silence >= SILENT => Health::Silent,
            UNRESPONSIVE.. => Health::Unresponsive,
            _ => Health::Good,
        });
        if silence >= DEAD {
            return;
        }
    }
}
