//! Calls to the cluster: which endpoint, with which token, and what is tried again.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Display;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use kv_core::observability::{attempt_failed, reconnected, reconnecting};
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::Streaming;

use crate::NAME;
use crate::auth::{Auth, Token};
use crate::batch::Lane;
use crate::config::{Config, Endpoint};
use crate::connection::Connection;
use crate::error::{Failed, Unreachable};
use crate::keep_alive::Renewals;
use crate::proto::Call;
use crate::read::Get;
use crate::txn::Write;

/// An endpoint that has not answered for this long gets company: the next one is tried beside it.
const STAGGER: Duration = Duration::from_millis(300);

/// How soon an endpoint is asked again that has no leader.
const ELECTION: Duration = Duration::from_millis(150);

/// The cluster, as seen by one backend: one current connection, shared by every call and stream.
pub(crate) struct Client {
    pub(crate) config: Config,
    auth: Option<Auth>,
    /// Where single reads and writes queue.
    pub(crate) reads: Lane<Get>,
    pub(crate) writes: Lane<Write>,
    pub(crate) renewals: Renewals,
    current: Mutex<Option<Arc<Connection>>>,
    /// Which endpoint is tried first for the next connection.
    first: AtomicUsize,
    /// One connects for all who wait; the last failure is theirs, too, if it came after they began to wait.
    connecting: tokio::sync::Mutex<Connecting>,
}

/// What is known while there is no connection.
#[derive(Default)]
struct Connecting {
    last_failure: Option<(Instant, Unreachable)>,
    /// There was a connection before.
    again: bool,
    /// How many attempts were made to have one again.
    attempts: usize,
}

impl Client {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            auth: config.credentials.clone().map(Auth::new),
            config,
            reads: Lane::default(),
            writes: Lane::default(),
            renewals: Renewals::default(),
            current: Mutex::default(),
            first: AtomicUsize::new(0),
            connecting: tokio::sync::Mutex::default(),
        }
    }

    /// Sends a request, to one endpoint after the other as long as that cannot apply it twice.
    ///
    /// Boxed, for it is large: operations that wait for others to carry them are not to have the room for it, too.
    pub(crate) fn call<C: Call>(&self, request: C) -> BoxFuture<'_, Result<C::Answer, Failed>> {
        Box::pin(self.call_endpoints(Arc::new(request)))
    }

    async fn call_endpoints<C: Call>(&self, request: Arc<C>) -> Result<C::Answer, Failed> {
        let (mut endpoints_left, mut tokens_left) = (self.config.endpoints.len(), 2);
        let mut attempt = 0;
        loop {
            attempt += 1;
            let connection = self.connection().await?;
            let under_way = UnderWay { client: self, connection: &connection, began: Instant::now() };
            let (generation, result) = self.attempt(&connection, Arc::clone(&request)).await;
            std::mem::forget(under_way);
            let failed = match result {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
            if let Some(auth) = &self.auth
                && failed.is_stale_token()
                && tokens_left > 0
            {
                auth.forget(generation).await;
                tokens_left -= 1;
            } else if failed.moves_on() && endpoints_left > 0 {
                self.abandon(&connection);
                endpoints_left -= 1;
            } else {
                return Err(failed);
            }
            let endpoint = &self.config.endpoints[connection.endpoint].address;
            attempt_failed(NAME, Some(endpoint), attempt, &failed.into());
        }
    }

    /// Sends a request once; tells also which login it was sent under.
    async fn attempt<C: Call>(&self, connection: &Connection, request: Arc<C>) -> (u64, Result<C::Answer, Failed>) {
        let token = match self.token(connection).await {
            Ok(token) => token,
            Err(failed) => return (0, Err(failed)),
        };
        let writes = request.writes();
        let result = connection.unary(request, token.value).await;
        (token.generation, result.map_err(|status| Failed::Status { status, writes }))
    }

    /// Opens a stream, on the connection that is returned with it.
    pub(crate) async fn stream<Q, A>(
        &self,
        method: &'static str,
        requests: impl futures_core::Stream<Item = Q> + Send + 'static,
    ) -> Result<(Arc<Connection>, Streaming<A>), Failed>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let connection = self.connection().await?;
        let token = self.token(&connection).await?;
        let under_way = UnderWay { client: self, connection: &connection, began: Instant::now() };
        let result = connection.stream(method, requests, token.value).await;
        std::mem::forget(under_way);
        match result {
            Ok(answers) => Ok((connection, answers)),
            Err(status) => {
                self.abandon(&connection);
                Err(Failed::Status { status, writes: false })
            }
        }
    }

    /// Makes the next call or stream log in anew.
    pub(crate) async fn forget_token(&self) {
        if let Some(auth) = &self.auth {
            auth.forget_any().await;
        }
    }

    /// Whether a new token can be had.
    pub(crate) fn has_credentials(&self) -> bool {
        self.auth.is_some()
    }

    /// Makes the next call connect anew, to another endpoint first; what is under way on the connection goes on.
    pub(crate) fn abandon(&self, connection: &Arc<Connection>) {
        let mut current = self.current_slot();
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, connection)) {
            *current = None;
            self.first.store(connection.endpoint + 1, Ordering::Relaxed);
        }
    }

    /// The current connection, or a new one; fails in good time before the request timeout, so that the caller
    /// learns that nothing was sent.
    pub(crate) async fn connection(&self) -> Result<Arc<Connection>, Unreachable> {
        if let Some(connection) = self.current() {
            return Ok(connection);
        }
        let began = Instant::now();
        let deadline = began + self.config.timeout * 4 / 5;
        let late = |_| Unreachable::for_now("no endpoint could be connected to in time");
        let mut connecting = timeout_at(deadline, self.connecting.lock()).await.map_err(late)?;
        if let Some(connection) = self.current() {
            return Ok(connection);
        }
        if let Some((at, failure)) = &connecting.last_failure
            && *at > began
        {
            return Err(failure.clone());
        }
        if connecting.again {
            connecting.attempts += 1;
            let broke: &dyn Display = match &connecting.last_failure {
                Some((_, failure)) if connecting.attempts > 1 => failure,
                _ => &"the connection ended, or no answer came on it",
            };
            reconnecting(NAME, "connection", connecting.attempts, broke);
        }
        match self.connect(deadline).await {
            Ok(connection) => {
                if connecting.again {
                    reconnected(NAME, "connection", connecting.attempts);
                }
                (connecting.again, connecting.attempts) = (true, 0);
                let connection = Arc::new(connection);
                self.first.store(connection.endpoint, Ordering::Relaxed);
                *self.current_slot() = Some(Arc::clone(&connection));
                Ok(connection)
            }
            Err(failure) => {
                connecting.last_failure = Some((Instant::now(), failure.clone()));
                Err(failure)
            }
        }
    }

    /// Tries the endpoints in turn, each a little after the one before unless that has failed; the first wins.
    ///
    /// An election is waited for: calls go on after it, instead of failing for as long as it takes.
    async fn connect(&self, deadline: Instant) -> Result<Connection, Unreachable> {
        let endpoints: &[Endpoint] = &self.config.endpoints;
        let first = self.first.load(Ordering::Relaxed);
        let mut waiting: VecDeque<usize> = (0..endpoints.len()).map(|i| (first + i) % endpoints.len()).collect();
        let mut trying = FuturesUnordered::new();
        let mut tried: Vec<usize> = Vec::new();
        let mut failures: BTreeMap<usize, Unreachable> = BTreeMap::new();
        let mut next = Instant::now();
        while !(waiting.is_empty() && trying.is_empty()) {
            tokio::select! {
                biased;
                Some((index, result)) = trying.next() => match result {
                    Ok(connection) => return Ok(connection),
                    Err(failure) => {
                        let failure: Unreachable = failure;
                        tried.retain(|one| *one != index);
                        next = Instant::now();
                        if failure.is_leaderless() {
                            waiting.push_back(index);
                            next += ELECTION;
                        }
                        failures.insert(index, failure);
                    }
                },
                () = sleep_until(deadline) => break,
                () = sleep_until(next), if !waiting.is_empty() => {
                    let index = waiting.pop_front().unwrap_or(first);
                    tried.push(index);
                    trying.push(self.open(index));
                    next = Instant::now() + STAGGER;
                }
            }
        }
        for silent in tried.into_iter().chain(waiting) {
            failures.entry(silent).or_insert_with(|| Unreachable::for_now("no answer in time"));
        }
        let failures: Vec<_> =
            failures.into_iter().map(|(index, failure)| (endpoints[index].address.clone(), failure)).collect();
        Err(Unreachable::all(&failures))
    }

    async fn open(&self, index: usize) -> (usize, Result<Connection, Unreachable>) {
        (index, Connection::open(&self.config.endpoints[index], index).await)
    }

    async fn token(&self, connection: &Connection) -> Result<Token, Failed> {
        match &self.auth {
            Some(auth) => auth.token(connection).await,
            None => Ok(Token::default()),
        }
    }

    fn current(&self) -> Option<Arc<Connection>> {
        self.current_slot().as_ref().filter(|connection| !connection.is_closed()).cloned()
    }

    fn current_slot(&self) -> MutexGuard<'_, Option<Arc<Connection>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call whose caller gives up after most of the request timeout leaves a connection that nobody should wait on
/// again: the endpoint may be gone without a trace, which keepalive notices only later.
struct UnderWay<'a> {
    client: &'a Client,
    connection: &'a Arc<Connection>,
    began: Instant,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if self.began.elapsed() >= self.client.config.timeout / 2 {
            self.client.abandon(self.connection);
        }
    }
}
