//! Calls to the cluster: the connection and the token of each, and which calls are repeated
//! ([clause S5](kv_core::contract::CLAUSES#S5)).

use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use kv_core::Error;
use kv_core::backend::backoff::Backoff;
use kv_core::backend::call;
use kv_core::backend::runtime::PerRuntime;
use kv_core::observability::attempt_failed;
use tokio::time::{Instant, sleep};
use tonic::{Status, Streaming};

use crate::api::messages::Call;
use crate::config::{Config, NAME};
use crate::error::{Failed, Unreachable, Unresponsive};
use crate::transport::auth::{Auth, Token};
use crate::transport::connection::Companions;
pub(crate) use crate::transport::connection::{Connection, HEALTH, Ping};
use crate::transport::connector::{Connector, left_at};
use crate::transport::health::Health;
pub(crate) use crate::transport::http2::Volume;

/// The pauses between the attempts of one call.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How many new tokens one call asks for.
const LOGINS: usize = 2;

/// The cluster, for all parts of one backend, on any runtime.
pub(crate) struct Client {
    pub(crate) config: Arc<Config>,
    members: PerRuntime<Members>,
}

/// The connections and the login of one runtime.
struct Members {
    auth: Option<Arc<Auth>>,
    /// The connection that most calls and all streams share.
    connector: Connector,
    /// The connection for calls that send or receive much, made when the first of them needs it. On a shared
    /// connection, small answers would wait for the bytes of large ones before them.
    bulk: Connector,
    /// A connection in this state is replaced by another.
    left_at: Health,
}

impl Client {
    pub(crate) fn new(config: Config) -> Self {
        Self { config: Arc::new(config), members: PerRuntime::new() }
    }

    /// Sends the request of the current call. Repeats it while the caller waits, if nothing was applied or if the
    /// request is idempotent.
    ///
    /// Boxed to keep the futures of queued operations small.
    pub(crate) fn call<C: Call>(&self, request: C) -> BoxFuture<'_, Result<C::Answer, Failed>> {
        Box::pin(async move {
            let caller = call::Call::current();
            self.members().call(Arc::new(request), slice::from_ref(&caller), Volume::Small).await
        })
    }

    /// As [`call`](Self::call), for a request of this size and for callers that may wait in other tasks.
    pub(crate) fn call_for<'a, C: Call>(
        &'a self,
        callers: &'a [call::Call],
        size: Volume,
        request: C,
    ) -> BoxFuture<'a, Result<C::Answer, Failed>> {
        Box::pin(async move { self.members().call(Arc::new(request), callers, size).await })
    }

    /// A connection and a token, for a request that is sent once.
    pub(crate) async fn ready(&self, callers: &[call::Call]) -> Result<Ready, Failed> {
        let members = self.members();
        let connection = members.connection(callers, Volume::Small).await?;
        let token = members.token(&connection).await?;
        Ok(Ready { members, connection, token })
    }

    /// How many small requests the server takes at once, as far as is known. It may be asked outside a runtime.
    pub(crate) fn most_in_flight(&self) -> usize {
        self.members.current().map_or(usize::MAX, |members| members.connector.most_in_flight())
    }

    /// Opens a stream, and returns it with its connection.
    pub(crate) async fn stream<Q, A>(
        &self,
        method: &'static str,
        requests: impl futures_core::Stream<Item = Q> + Send + 'static,
    ) -> Result<(Arc<Connection>, Answers<A>), Failed>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let members = self.members();
        let connection = members.connection(&[], Volume::Small).await?;
        let token = members.token(&connection).await?;
        let due = connection.expect_answer();
        let opened = tokio::select! {
            biased;
            opened = connection.stream(method, requests, token.value) => opened,
            () = connection.worsens_to(members.left_at) => Err(Status::from_error(Unresponsive.into())),
        };
        drop(due);
        match opened {
            Ok(stream) => {
                let answers = Answers { stream, connection: Arc::clone(&connection), left_at: members.left_at };
                Ok((connection, answers))
            }
            Err(status) => {
                members.abandon(&connection);
                Err(Failed::stream(&connection.address, status))
            }
        }
    }

    /// What the calls of `ping` were answered if they went along with the first call on a new connection.
    pub(crate) async fn early_ping(&self) -> Result<Option<Ping>, Unreachable> {
        let (asked, caller, members) = (Instant::now(), call::Call::current(), self.members());
        let connection = members.connection(slice::from_ref(&caller), Volume::Small).await?;
        Ok(connection.early_ping(asked, members.left_at).await)
    }

    /// Makes sure that there is a connection.
    pub(crate) async fn connect(&self) -> Result<(), Unreachable> {
        let caller = call::Call::current();
        self.members().connection(slice::from_ref(&caller), Volume::Small).await.map(drop)
    }

    /// Makes the next call or stream log in again.
    pub(crate) async fn forget_token(&self) {
        if let Some(auth) = &self.members().auth {
            auth.forget_any().await;
        }
    }

    /// Whether a new token can be had.
    pub(crate) fn has_credentials(&self) -> bool {
        self.config.credentials.is_some()
    }

    /// Gives up a connection: the next call connects again, to another endpoint first. Calls in flight continue.
    pub(crate) fn abandon(&self, connection: &Arc<Connection>) {
        self.members().abandon(connection);
    }

    /// The endpoint that the next request is sent to, unless it turns out not to serve.
    pub(crate) fn next_endpoint(&self) -> Arc<str> {
        self.members().connector.next_endpoint()
    }

    fn members(&self) -> Arc<Members> {
        self.members.get(|| Members::new(&self.config))
    }
}

/// The calls that go along with the first one on a connection: a login, or, on the first connection, the calls of the
/// `ping` that most likely waits for it.
fn companions(auth: Option<Arc<Auth>>, left_at: Health) -> Companions {
    let pings = AtomicBool::new(auth.is_none());
    Arc::new(move |connection| {
        if let Some(auth) = &auth {
            let (auth, connection) = (Arc::clone(auth), Arc::clone(connection));
            // Whoever needs the token waits for it, and logs in again if that failed.
            return Some(tokio::spawn(async move { drop(auth.new_token(&connection, left_at).await) }).abort_handle());
        }
        if pings.swap(false, Ordering::Relaxed) {
            connection.ping_early();
        }
        None
    })
}

/// Everything that a request needs to be sent.
pub(crate) struct Ready {
    members: Arc<Members>,
    connection: Arc<Connection>,
    token: Token,
}

impl Ready {
    /// The endpoint that it is sent to.
    pub(crate) fn endpoint(&self) -> &Arc<str> {
        &self.connection.address
    }

    /// Sends a request once. After a failure that another endpoint or a new token may help, the next call has that.
    pub(crate) async fn send<C: Call>(self, request: C) -> Result<C::Answer, Failed> {
        let idempotence = request.idempotence();
        let result = self.connection.unary(Arc::new(request), self.token.value).await;
        let failed = match result {
            Ok(answer) => return Ok(answer),
            Err(status) => Failed::at(&self.connection.address, idempotence, status),
        };
        if failed.is_of_the_endpoint() {
            self.members.abandon(&self.connection);
        }
        Err(failed)
    }
}

/// An attempt that failed.
struct Attempt {
    connection: Arc<Connection>,
    /// The login whose token it used.
    generation: u64,
    failed: Failed,
}

impl Members {
    fn new(config: &Arc<Config>) -> Self {
        let auth = config.credentials.clone().map(|credentials| Arc::new(Auth::new(credentials)));
        let left_at = left_at(config.endpoints.len());
        let companions = companions(auth.clone(), left_at);
        Self {
            auth,
            left_at,
            connector: Connector::new(config, Volume::Small, companions),
            bulk: Connector::new(config, Volume::Large, Arc::new(|_| None)),
        }
    }

    async fn call<C: Call>(&self, request: Arc<C>, callers: &[call::Call], size: Volume) -> Result<C::Answer, Failed> {
        let is_write = !request.idempotence().is_repeatable();
        let mut pauses = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let mut logins_left = LOGINS;
        loop {
            if is_write {
                callers.iter().for_each(call::Call::not_sent);
            }
            let connection = self.connection(callers, size).await?;
            let first = Box::pin(self.attempt(connection.clone(), Arc::clone(&request), callers));
            let result =
                if is_write { first.await } else { self.insist(first, connection, &request, callers, size).await };
            let Attempt { connection, generation, failed } = match result {
                Ok(answer) => return Ok(answer),
                Err(attempt) => attempt,
            };
            let pause = pauses.next();
            let failure;
            if let Some(auth) = &self.auth
                && failed.is_stale_token()
                && logins_left > 0
            {
                auth.forget(generation).await;
                logins_left -= 1;
                failure = Error::from(failed);
            } else if failed.is_worth_another_attempt() {
                if failed.is_of_the_endpoint() {
                    self.abandon(&connection);
                }
                failure = note(callers, failed, is_write);
                sleep(pause).await;
            } else {
                return Err(failed);
            }
            attempt_failed(NAME, Some(&connection.address), pauses.attempts(), &failure);
        }
    }

    /// Waits for the answer to a request that may be repeated. If the server answers no call, it may be isolated from
    /// its cluster, or slow. So the request is also sent to another endpoint, and the first answer counts.
    async fn insist<'a, C: Call>(
        &'a self,
        first: BoxFuture<'a, Result<C::Answer, Attempt>>,
        mut asked: Arc<Connection>,
        request: &Arc<C>,
        callers: &'a [call::Call],
        size: Volume,
    ) -> Result<C::Answer, Attempt> {
        let mut first = first;
        tokio::select! {
            biased;
            result = &mut first => return result,
            () = asked.worsens_to(self.left_at) => {}
        }
        let mut attempts = FuturesUnordered::from_iter([first]);
        loop {
            let failure = Error::unavailable(format!("{}: {Unresponsive}", asked.address));
            for caller in callers {
                caller.attempt_failed(&failure);
            }
            let connection = tokio::select! {
                biased;
                Some(result) = attempts.next() => {
                    if result.is_ok() || attempts.is_empty() {
                        return result;
                    }
                    continue;
                }
                Ok(connection) = self.connection(callers, size) => connection,
            };
            attempts.push(Box::pin(self.attempt(connection.clone(), Arc::clone(request), callers)));
            asked = connection;
            loop {
                tokio::select! {
                    biased;
                    Some(result) = attempts.next() => if result.is_ok() || attempts.is_empty() {
                        return result;
                    },
                    () = asked.worsens_to(self.left_at) => break,
                }
            }
        }
    }

    /// Sends a request once.
    async fn attempt<C: Call>(
        &self,
        connection: Arc<Connection>,
        request: Arc<C>,
        callers: &[call::Call],
    ) -> Result<C::Answer, Attempt> {
        let idempotence = request.idempotence();
        for caller in callers {
            caller.asks(&connection.address);
        }
        let token = match self.token(&connection).await {
            Ok(token) => token,
            Err(failed) => return Err(Attempt { connection, generation: 0, failed }),
        };
        // From here on the write may be applied. It is not sent if every caller has already given up.
        if !idempotence.is_repeatable() && !callers.iter().fold(false, |any, caller| caller.sent() | any) {
            return Err(Attempt { connection, generation: 0, failed: Failed::withdrawn() });
        }
        let result = connection.unary(request, token.value).await;
        result.map_err(|status| {
            let failed = Failed::at(&connection.address, idempotence, status);
            Attempt { connection, generation: token.generation, failed }
        })
    }

    fn abandon(&self, connection: &Arc<Connection>) {
        self.connector.abandon(connection);
        self.bulk.abandon(connection);
    }

    async fn connection(&self, callers: &[call::Call], size: Volume) -> Result<Arc<Connection>, Unreachable> {
        let note = |failure: &Unreachable| {
            let failure = Error::from(failure.clone());
            for caller in callers {
                caller.attempt_failed(&failure);
            }
        };
        let connector = if size == Volume::Large { &self.bulk } else { &self.connector };
        connector.connection(note).await
    }

    async fn token(&self, connection: &Arc<Connection>) -> Result<Token, Failed> {
        match &self.auth {
            Some(auth) => auth.token(connection, self.left_at).await,
            None => Ok(Token::default()),
        }
    }
}

/// The answers on a stream.
pub(crate) struct Answers<A> {
    stream: Streaming<A>,
    connection: Arc<Connection>,
    left_at: Health,
}

impl<A> Answers<A> {
    /// The next answer, where the server owes one. Dropping the future loses no answer.
    ///
    /// # Errors
    /// As for [`message`](Self::message). Also if the server answers no call and there are other endpoints.
    pub(crate) async fn due(&mut self) -> Result<Option<A>, Status> {
        let _due = self.connection.expect_answer();
        let left_at = self.left_at;
        self.until(left_at).await
    }

    /// The next answer, however long that takes. Dropping the future loses no answer.
    ///
    /// # Errors
    /// The status with which the stream ended. Also if the server does not answer pings any more, so that a stream
    /// without answers does not wait for a dead server.
    pub(crate) async fn message(&mut self) -> Result<Option<A>, Status> {
        self.until(Health::Silent).await
    }

    async fn until(&mut self, health: Health) -> Result<Option<A>, Status> {
        tokio::select! {
            biased;
            answer = self.stream.message() => answer,
            () = self.connection.worsens_to(health) => Err(Status::from_error(Unresponsive.into())),
        }
    }
}

/// Notes in the calls why an attempt failed. In those of a write it also notes that nothing was applied, if that is
/// certain.
pub(crate) fn note(callers: &[call::Call], failed: Failed, is_write: bool) -> Error {
    let is_not_applied = failed.is_not_applied();
    let error = Error::from(failed);
    for caller in callers {
        if is_write && is_not_applied {
            caller.not_sent();
        }
        caller.attempt_failed(&error);
    }
    error
}
