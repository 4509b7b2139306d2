//! Whether the server at the other end of a connection still responds.
//!
//! Callers give up after any time they like, and may do so long before an answer is due. So nothing here depends on
//! their timeouts: a task of the connection looks at what came from the server while somebody waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::poll;
use h2::{Ping, PingPong};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// How often the task looks.
const TICK: Duration = Duration::from_millis(500);
/// So many looks in a row find a call waiting and no answer to any call.
const UNRESPONSIVE: u32 = 2;
/// A connection that somebody waits on is asked for a sign of life after so much silence. etcd closes connections that
/// ask more often than every 5 s (`--grpc-keepalive-min-time`).
const KEEP_ALIVE: Duration = Duration::from_secs(6);
/// How long the sign of life may take.
const SILENT: Duration = Duration::from_secs(4);
/// How long it may take until the connection is ended. Writes wait until then: an answer is worth more to them than
/// another connection.
const DEAD: Duration = Duration::from_secs(30);

/// What is known of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Health {
    Good,
    /// A call waits, and no call is answered. The server may be cut off from its cluster, or the work may take long.
    Unresponsive,
    /// It does not even answer a ping.
    Silent,
}

/// What came from the server, and who waits for it.
pub(super) struct Signs {
    bytes: AtomicU32,
    answers: AtomicU32,
    /// The server has said that it processes no stream after this one.
    last_stream: AtomicU32,
    /// Who waits for anything.
    users: AtomicUsize,
    /// Who waits for an answer that is due now.
    calls: AtomicUsize,
    health: watch::Sender<Health>,
}

/// Counters at one moment.
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

    /// Whether the server has said that it does not process this stream.
    pub(super) fn is_unprocessed(&self, stream: u32) -> bool {
        stream > self.last_stream.load(Ordering::Acquire)
    }

    pub(super) fn seen(&self) -> Seen {
        Seen { bytes: self.bytes.load(Ordering::Relaxed), answers: self.answers.load(Ordering::Relaxed) }
    }

    pub(super) fn health(&self) -> Health {
        *self.health.borrow()
    }

    /// Waits until the server is in this state, or in a worse one.
    pub(super) async fn worsens_to(&self, health: Health) {
        let mut states = self.health.subscribe();
        let _ = states.wait_for(|now| *now >= health).await;
    }

    fn set(&self, health: Health) {
        self.health.send_if_modified(|now| std::mem::replace(now, health) != health);
    }
}

/// Somebody waits for the server, until this is dropped.
pub(crate) struct Waiting {
    signs: Arc<Signs>,
    /// For an answer that is due now, and not for events that may come at any time.
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

/// Looks after a connection; ends when the server has given no sign of life for so long that it is given up.
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
        // The answer to a ping counts as any other byte does; it only has to be taken before the next ping.
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
