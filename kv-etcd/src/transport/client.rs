//! Calls to the cluster: which endpoint, with which token, and what is tried again.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use kv_core::backend::fate::Idempotence;
use kv_core::backend::rotation::Rotation;
use kv_core::backend::runtime::PerRuntime;
use kv_core::observability::{attempt_failed, reconnected, reconnecting};
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::Streaming;

use crate::api::messages::Call;
use crate::config::{Config, Endpoint, NAME};
use crate::error::{Failed, Unreachable};
use crate::transport::auth::{Auth, Token};
pub(crate) use crate::transport::connection::Connection;

/// An endpoint that has not answered for this long gets company: the next one is tried beside it.
const STAGGER: Duration = Duration::from_millis(300);

/// How soon an endpoint is asked again that has no leader.
const ELECTION: Duration = Duration::from_millis(150);

/// The cluster, as seen by one backend, from whatever runtime.
pub(crate) struct Client {
    pub(crate) config: Arc<Config>,
    members: PerRuntime<Members>,
}

/// The cluster as seen from one runtime: one current connection, shared by every call and stream.
struct Members {
    config: Arc<Config>,
    auth: Option<Auth>,
    current: Mutex<Option<Arc<Connection>>>,
    /// In which order endpoints are tried for the next connection.
    rotation: Rotation,
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
        Self { config: Arc::new(config), members: PerRuntime::new() }
    }

    /// Sends a request, to one endpoint after the other as long as that cannot apply it twice.
    ///
    /// Boxed to keep the futures of queued operations small.
    pub(crate) fn call<C: Call>(&self, request: C) -> BoxFuture<'_, Result<C::Answer, Failed>> {
        Box::pin(async move { self.members().call(Arc::new(request)).await })
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
        self.members().stream(method, requests).await
    }

    /// Makes sure that there is a connection.
    pub(crate) async fn connect(&self) -> Result<(), Unreachable> {
        self.members().connection().await.map(drop)
    }

    /// Makes the next call or stream log in anew.
    pub(crate) async fn forget_token(&self) {
        if let Some(auth) = &self.members().auth {
            auth.forget_any().await;
        }
    }

    /// Whether a new token can be had.
    pub(crate) fn has_credentials(&self) -> bool {
        self.config.credentials.is_some()
    }

    /// Makes the next call connect anew, to another endpoint first; what is in flight on the connection goes on.
    pub(crate) fn abandon(&self, connection: &Arc<Connection>) {
        self.members().abandon(connection);
    }

    fn members(&self) -> Arc<Members> {
        self.members.get(|| Members::new(&self.config))
    }
}

impl Members {
    fn new(config: &Arc<Config>) -> Self {
        Self {
            auth: config.credentials.clone().map(Auth::new),
            rotation: Rotation::new(config.endpoints.len()),
            config: Arc::clone(config),
            current: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
        }
    }

    async fn call<C: Call>(&self, request: Arc<C>) -> Result<C::Answer, Failed> {
        let (mut endpoints_left, mut tokens_left) = (self.config.endpoints.len(), 2);
        let mut attempt = 0;
        loop {
            attempt += 1;
            let connection = self.connection().await?;
            let mut in_flight = InFlight::new(self, &connection);
            let (generation, result) = self.attempt(&connection, Arc::clone(&request)).await;
            in_flight.answered = true;
            drop(in_flight);
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
        let idempotence = request.idempotence();
        let result = connection.unary(request, token.value).await;
        (token.generation, result.map_err(|status| Failed::Status { status, idempotence }))
    }

    async fn stream<Q, A>(
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
        let mut in_flight = InFlight::new(self, &connection);
        let result = connection.stream(method, requests, token.value).await;
        in_flight.answered = true;
        drop(in_flight);
        match result {
            Ok(answers) => Ok((connection, answers)),
            Err(status) => {
                self.abandon(&connection);
                Err(Failed::Status { status, idempotence: Idempotence::Repeatable })
            }
        }
    }

    fn abandon(&self, connection: &Arc<Connection>) {
        let mut current = self.current_slot();
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, connection)) {
            *current = None;
            self.rotation.failed(connection.endpoint);
        }
    }

    /// The current connection, or a new one; fails in good time before the request timeout, so that the caller
    /// learns that nothing was sent.
    async fn connection(&self) -> Result<Arc<Connection>, Unreachable> {
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
                self.rotation.answered(connection.endpoint);
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
        let mut waiting: VecDeque<usize> = self.rotation.order().into();
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
                        self.rotation.failed(index);
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
                    if let Some(index) = waiting.pop_front() {
                        tried.push(index);
                        trying.push(self.open(index));
                    }
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

/// A request in flight.
///
/// If its caller gives up after most of the request timeout, nobody should wait on the connection again: the endpoint
/// may be gone without a trace, which keepalive notices only later.
struct InFlight<'a> {
    members: &'a Members,
    connection: &'a Arc<Connection>,
    began: Instant,
    answered: bool,
}

impl<'a> InFlight<'a> {
    fn new(members: &'a Members, connection: &'a Arc<Connection>) -> Self {
        Self { members, connection, began: Instant::now(), answered: false }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if !self.answered && self.began.elapsed() >= self.members.config.timeout / 2 {
            self.members.abandon(self.connection);
        }
    }
}
