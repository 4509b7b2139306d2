//! The memory store as a client sees it that must reach a member before each call, with a fault or without.

use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kv_core::backend::backoff::Backoff;
use kv_core::backend::call::Call;
use kv_core::backend::fate::Idempotence;
use kv_core::backend::rotation::Rotation;
use kv_core::backend::{Backend, EventStream, Grant, Lease, Snapshot, Txn};
use kv_core::{Error, Limits, Result, Value};
use kv_memory::MemoryBackend;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::fault::Fault;
use super::member::{HELLO, PASSES};
use crate::known_locks::lock;

/// How long one endpoint is waited for while there are others.
const PATIENCE: Duration = Duration::from_millis(500);
/// What a store takes whose own timeout counts beside the handle's.
const OWN_TIMEOUT: Duration = Duration::from_secs(5);

/// The leases that members granted, by the member's endpoint.
pub(super) type Granted = Arc<Mutex<Vec<(Arc<str>, Weak<dyn Lease>)>>>;

pub(super) struct Client {
    fault: Option<Fault>,
    store: MemoryBackend,
    granted: Granted,
    rotation: Rotation,
    endpoints: Vec<Endpoint>,
    /// For a store that makes one call at a time.
    turn: tokio::sync::Mutex<()>,
}

struct Endpoint {
    address: Arc<str>,
    idle: Mutex<Vec<TcpStream>>,
}

/// An endpoint that is waited for. Whoever gives up has learnt that it does not answer.
struct Asked<'a> {
    client: &'a Client,
    at: usize,
    answered: bool,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        match (self.answered, self.client.fault) {
            (_, Some(Fault::SendsBlindly)) | (false, Some(Fault::StaysWithWhatHangs)) => {}
            (true, _) => self.client.rotation.answered(self.at),
            (false, _) => self.client.rotation.failed(self.at),
        }
    }
}

impl Client {
    pub(super) fn new(fault: Option<Fault>, store: MemoryBackend, granted: Granted, endpoints: &[String]) -> Self {
        let endpoint = |address: &String| Endpoint { address: address.as_str().into(), idle: Mutex::default() };
        let endpoints: Vec<_> = endpoints.iter().map(endpoint).collect();
        let (rotation, turn) = (Rotation::new(endpoints.len()), tokio::sync::Mutex::default());
        Self { fault, store, granted, rotation, endpoints, turn }
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    /// Waits until a member lets a call pass, and returns its endpoint.
    async fn pass(&self, key: &str, idempotence: Idempotence) -> Result<Arc<str>> {
        if self.has(Fault::HasItsOwnTimeout) {
            let passing = timeout(OWN_TIMEOUT, self.find(key, idempotence));
            return passing.await.unwrap_or_else(|_| Err(Error::unavailable("the store's own time is up")));
        }
        self.find(key, idempotence).await
    }

    async fn find(&self, key: &str, idempotence: Idempotence) -> Result<Arc<str>> {
        let call = Call::current();
        let mut pauses = Backoff::new(Duration::from_millis(10), Duration::from_millis(200));
        loop {
            for at in self.rotation.order() {
                if self.has(Fault::FloodsWhatHangs) {
                    self.open_everywhere();
                }
                match self.ask(at, key, idempotence, &call).await {
                    Ok(true) => return Ok(self.endpoints[at].address.clone()),
                    Ok(false) if self.has(Fault::GivesUpAtOnce) => return Err(Error::unavailable("it has no leader")),
                    Ok(false) => call.attempt_failed(&Error::unavailable("it has no leader")),
                    Err(error) if self.has(Fault::FailsWithItsConnection) => return Err(error),
                    Err(error) if error.is_retryable() => call.attempt_failed(&error),
                    Err(error) => return Err(error),
                }
            }
            sleep(pauses.next()).await;
        }
    }

    /// Asks one member whether a call may pass.
    async fn ask(&self, at: usize, key: &str, idempotence: Idempotence, call: &Call) -> Result<bool> {
        let (once, endpoint) = (!idempotence.is_repeatable(), &self.endpoints[at]);
        let _turn = if self.has(Fault::OneAtATime) { Some(self.turn.lock().await) } else { None };
        let patience = self.patience(call);
        if once && !self.has(Fault::QueuedCountsAsSent) {
            call.not_sent();
        }
        if !self.has(Fault::NamesNoEndpoint) {
            call.asks(&endpoint.address);
        }
        let mut asked = Asked { client: self, at, answered: false };
        let silent = || Error::unavailable(format!("{} does not answer", endpoint.address));
        let broke = |error: io::Error| format!("{}: {error}", endpoint.address);
        let connected =
            timeout(patience, endpoint.connection(self.has(Fault::SendsBlindly))).await.map_err(|_| silent())?;
        let mut stream = connected.map_err(|error| Error::unavailable(broke(error)))?;
        if once && !call.sent() {
            return Err(Error::unavailable("the caller no longer waits"));
        }
        let answer = {
            let mut answering = pin!(async {
                stream.write_all(format!("{key}\n").as_bytes()).await?;
                if self.has(Fault::SentCountsAsQueued) {
                    call.not_sent();
                }
                match stream.read_u8().await? {
                    HELLO => stream.read_u8().await,
                    answer => Ok(answer),
                }
            });
            // A write that has left is waited for as long as its caller does.
            match timeout(patience, answering.as_mut()).await {
                Err(_elapsed) if once => answering.await,
                Err(_elapsed) => return Err(silent()),
                Ok(answer) => answer,
            }
        };
        let answer = answer.map_err(|error| idempotence.unknown(broke(error)))?;
        asked.answered = answer == PASSES;
        lock(&endpoint.idle).push(stream);
        Ok(asked.answered)
    }

    /// A share of the time that the call has left, if there are other endpoints.
    fn patience(&self, call: &Call) -> Duration {
        if self.endpoints.len() == 1 || self.has(Fault::StaysWithWhatHangs) {
            return Duration::from_secs(3600);
        }
        let left = call.deadline().map(|deadline| deadline.saturating_duration_since(Instant::now()));
        left.map_or(PATIENCE, |left| PATIENCE.min(left / 2))
    }

    fn open_everywhere(&self) {
        for endpoint in &self.endpoints {
            let address = endpoint.address.clone();
            tokio::spawn(async move { TcpStream::connect(&*address).await });
        }
    }

    fn granted(&self, grant: Grant, by: Arc<str>) -> Grant {
        if !self.has(Fault::LeasesEndWithTheirMember) {
            return grant;
        }
        let lease: Arc<dyn Lease> = grant.lease.into();
        lock(&self.granted).push((by, Arc::downgrade(&lease)));
        Grant { lease: Box::new(Shared(lease)), ..grant }
    }
}

impl Endpoint {
    /// A connection at whose other end somebody listens, or one that was used before.
    async fn connection(&self, blindly: bool) -> io::Result<TcpStream> {
        if let Some(stream) = lock(&self.idle).pop() {
            return Ok(stream);
        }
        let mut stream = TcpStream::connect(&*self.address).await?;
        stream.set_nodelay(true)?;
        if blindly {
            return Ok(stream);
        }
        match stream.read_u8().await? {
            HELLO => Ok(stream),
            other => Err(io::Error::other(format!("it said {other}"))),
        }
    }
}

/// A lease that the store can end, too.
struct Shared(Arc<dyn Lease>);

#[async_trait]
impl Lease for Shared {
    async fn renew(&self) -> Result<()> {
        self.0.renew().await
    }

    async fn set(&self, data: Bytes) -> Result<u64> {
        self.0.set(data).await
    }

    async fn release(&self) -> Result<()> {
        self.0.release().await
    }
}

#[async_trait]
impl Backend for Client {
    fn name(&self) -> &'static str {
        "remote"
    }

    fn limits(&self) -> Limits {
        self.store.limits()
    }

    async fn ping(&self) -> Result<()> {
        self.pass("", Idempotence::Repeatable).await?;
        self.store.ping().await
    }

    async fn get(&self, key: &str) -> Result<Value> {
        self.pass(key, Idempotence::Repeatable).await?;
        self.store.get(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Snapshot> {
        self.pass(prefix, Idempotence::Repeatable).await?;
        self.store.list(prefix).await
    }

    async fn keys(&self, prefix: &str) -> Result<Vec<String>> {
        self.pass(prefix, Idempotence::Repeatable).await?;
        self.store.keys(prefix).await
    }

    async fn commit(&self, txn: Txn) -> Result<Option<u64>> {
        self.pass(&format!("{:?}", txn.operations), Idempotence::Once).await?;
        self.store.commit(txn).await
    }

    async fn watch(&self, prefix: &str, after: u64) -> Result<EventStream> {
        self.pass(prefix, Idempotence::Repeatable).await?;
        self.store.watch(prefix, after).await
    }

    async fn observe(&self, prefix: &str) -> Result<(Snapshot, EventStream)> {
        self.pass(prefix, Idempotence::Repeatable).await?;
        self.store.observe(prefix).await
    }

    async fn ephemeral_key(&self, key: &str, ttl: Duration) -> Result<Grant> {
        let by = self.pass(key, Idempotence::Once).await?;
        Ok(self.granted(self.store.ephemeral_key(key, ttl).await?, by))
    }

    async fn lock(&self, key: &str, ttl: Duration) -> Result<Grant> {
        let by = self.pass(key, Idempotence::Repeatable).await?;
        Ok(self.granted(self.store.lock(key, ttl).await?, by))
    }

    async fn try_lock(&self, key: &str, ttl: Duration) -> Result<Option<Grant>> {
        let by = self.pass(key, Idempotence::Once).await?;
        Ok(self.store.try_lock(key, ttl).await?.map(|grant| self.granted(grant, by)))
    }
}
