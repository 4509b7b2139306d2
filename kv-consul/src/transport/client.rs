//! The choice of the agent for a request, and the repetition of calls.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use hyper::Method;
use kv_core::backend::backoff::Backoff;
use kv_core::backend::fate::Idempotence;
use kv_core::observability::attempt_failed;
use kv_core::{Error, Result};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::agent::{Agent, CONNECT, Request, Response};
use super::budget::{Budget, CallPermit, Permit, Share};
use super::callers::Callers;
use super::departure::Departure;
use super::health::Health;
use super::tls::Tls;
use crate::api::answer::Answer;
use crate::api::path;
use crate::config::{Config, Consistency, NAME};

/// If an agent has not answered for this long, another one is asked as well, or instead. The time is shorter if the
/// call has little time left.
const PATIENCE: Duration = Duration::from_secs(1);

/// The pauses after all agents failed: short at first, because an election takes about a second.
const BETWEEN_ROUNDS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(250));

/// A path that every agent answers at once, whatever the token.
const HARMLESS: &str = "/v1/status/leader";

/// The most bytes that are read of an answer that is not a listing. Values are at most 512 KiB unless configured
/// otherwise.
pub(crate) const SMALL: usize = 32 << 20;

/// The most bytes that are read of a listing.
pub(crate) const LISTING: usize = 1 << 30;

/// The most bytes that are read of a listing of names. JSON makes short names many times longer.
pub(crate) const NAMES: usize = 128 << 20;

/// The agents of one datacenter as one runtime uses them, with a pool of connections to each.
pub(crate) struct Client {
    agents: Vec<Arc<Agent>>,
    health: Arc<Health>,
    share: Share,
    /// The query parameter that names the datacenter.
    datacenter: Option<String>,
    consistency: Consistency,
}

impl Client {
    pub(super) fn new(config: &Config, tls: &Tls, health: Arc<Health>, budget: &Budget) -> Result<Self> {
        let agent = |host| Agent::new(config, host, tls, config.connections).map(Arc::new);
        Ok(Self {
            agents: config.hosts.iter().map(agent).collect::<Result<_>>()?,
            health,
            share: budget.share(),
            datacenter: config.datacenter.as_deref().map(|name| path::parameter("dc", name)),
            consistency: config.consistency,
        })
    }

    /// The query parameter for the consistency that the address asks for.
    pub(crate) fn consistency(&self) -> &'static str {
        self.consistency.parameter()
    }

    /// A path with its query: all parameters that are not empty, and the datacenter.
    pub(crate) fn target(&self, path: &str, parameters: &[&str]) -> String {
        let mut target = path.to_owned();
        let mut mark = '?';
        for parameter in parameters.iter().copied().chain(self.datacenter.as_deref()).filter(|one| !one.is_empty()) {
            target.push(mark);
            target.push_str(parameter);
            mark = '&';
        }
        target
    }

    /// Sends a read, and repeats it at other agents until one answers.
    pub(crate) async fn get(&self, target: String, cap: usize) -> Result<Answer> {
        self.get_with(target, cap, Response::whole).await
    }

    /// Sends a read for calls that may wait elsewhere.
    pub(crate) async fn get_for(&self, callers: &Callers, target: String, cap: usize) -> Result<Answer> {
        self.read(&reading(target, cap), Response::whole, callers).await
    }

    /// Sends a read as [`get`](Self::get) does; `receive` reads the body of each answer.
    pub(crate) async fn get_with<T, F>(
        &self,
        target: String,
        cap: usize,
        receive: impl Fn(Response) -> F + Send + Sync,
    ) -> Result<T>
    where
        T: Send,
        F: Future<Output = Result<T>> + Send,
    {
        self.read(&reading(target, cap), receive, &Callers::current()).await
    }

    /// Asks each agent once.
    pub(crate) async fn ask_once(&self, target: String) -> Result<Answer> {
        let request = reading(target, SMALL);
        let mut last = Error::unavailable("the address names no agent");
        for at in self.health.order() {
            let permit = self.permit(&request).await;
            let asking = async { self.attempt(at, &request, None, permit).await?.whole().await };
            last = match timeout(PATIENCE, asking).await {
                Ok(Err(error)) if error.is_retryable() => error,
                Ok(result) => return result,
                Err(_elapsed) => Error::unavailable(format!("{} did not answer", self.agents[at].address)),
            };
        }
        Err(last)
    }

    /// Sends a write for the call of the current task.
    pub(crate) async fn put(&self, target: String, body: Bytes, idempotence: Idempotence) -> Result<Answer> {
        self.put_for(&Callers::current(), target, body, idempotence).await
    }

    /// Sends a write, and repeats it at other agents as long as it was certainly not applied.
    pub(crate) async fn put_for(
        &self,
        callers: &Callers,
        target: String,
        body: Bytes,
        idempotence: Idempotence,
    ) -> Result<Answer> {
        let request = Request { method: Method::PUT, target, body, idempotence, cap: SMALL };
        match idempotence {
            Idempotence::Repeatable => self.read(&request, Response::whole, callers).await,
            Idempotence::Once => callers.bound(idempotence, self.write(&request, callers)).await,
        }
    }

    /// Makes a repeatable call: asks the agents in turn, in rounds with pauses between them
    /// ([clause S5](kv_core::contract::CLAUSES#S5)).
    async fn read<T, F>(
        &self,
        request: &Request,
        receive: impl Fn(Response) -> F + Send + Sync,
        callers: &Callers,
    ) -> Result<T>
    where
        T: Send,
        F: Future<Output = Result<T>> + Send,
    {
        let reading = async {
            let mut turns = Turns::new(self.health.order());
            loop {
                let (at, response) = self.first_answer(request, callers, &mut turns).await?;
                match receive(response).await {
                    Err(error) if error.is_retryable() => {
                        self.health.broke(at);
                        sleep(turns.failed(callers, &self.agents[at].address, &error)).await;
                    }
                    result => return result,
                }
            }
        };
        callers.bound(Idempotence::Repeatable, reading).await
    }

    /// Asks one agent after the other until one answers. One that takes long is not given up: its answer may be on its
    /// way, and the others may take as long.
    async fn first_answer(&self, request: &Request, callers: &Callers, turns: &mut Turns) -> Result<(usize, Response)> {
        let mut pending = FuturesUnordered::new();
        let mut asked: Vec<usize> = Vec::with_capacity(1);
        let mut next = Some(Instant::now());
        loop {
            if next.is_some_and(|next| next <= Instant::now()) {
                // Nobody is asked meanwhile, so the wait for it is held against no agent.
                let permit = if pending.is_empty() { Some(self.permit(request).await) } else { None };
                if let Some(at) = turns.next(&self.health, &asked) {
                    asked.push(at);
                    callers.ask(&self.agents[at].address);
                    pending.push(async move {
                        let permit = match permit {
                            Some(permit) => permit,
                            None => self.permit(request).await,
                        };
                        (at, self.attempt(at, request, None, permit).await)
                    });
                }
                next = (asked.len() < self.agents.len()).then(|| Instant::now() + turns.patience(callers));
            }
            tokio::select! {
                Some((at, result)) = pending.next() => {
                    let error = match result {
                        Err(error) if error.is_retryable() => error,
                        result => return result.map(|response| (at, response)),
                    };
                    asked.retain(|one| *one != at);
                    next = Some(Instant::now() + turns.failed(callers, &self.agents[at].address, &error));
                }
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                    // From now on, an agent that has not answered is asked after the others.
                    for at in &asked {
                        self.health.refused(*at);
                        callers.attempt_failed(&self.silent(*at));
                    }
                }
            }
        }
    }

    /// Sends a write that must be applied at most once. It is repeated at other agents only while it was certainly not
    /// applied.
    async fn write(&self, request: &Request, callers: &Callers) -> Result<Answer> {
        let mut turns = Turns::new(self.health.order());
        loop {
            callers.not_sent();
            let Some(at) = turns.next(&self.health, &[]) else {
                return Err(Error::unavailable("the address names no agent"));
            };
            let error = match self.write_at(at, request, callers, &turns).await {
                Err(error) if error.is_retryable() => error,
                result => return result,
            };
            callers.not_sent();
            let pause = turns.failed(callers, &self.agents[at].address, &error);
            if callers.are_late() {
                return callers.give_up(error).await;
            }
            sleep(pause).await;
        }
    }

    /// Sends a write to one agent. If there are other agents, it must have left within a share of the time.
    async fn write_at(&self, at: usize, request: &Request, callers: &Callers, turns: &Turns) -> Result<Answer> {
        let patience = if self.agents.len() > 1 { turns.patience(callers) } else { Duration::MAX };
        callers.ask(&self.agents[at].address);
        if self.health.is_broken(at) {
            // An agent that does not answer other requests gets no write, whose fate would be unknown.
            let harmless = reading(HARMLESS.to_owned(), SMALL);
            let asking = self.attempt(at, &harmless, None, self.permit(&harmless).await);
            let answered = timeout(patience, asking).await.unwrap_or_else(|_elapsed| Err(self.silent(at)));
            answered?.whole().await.map_err(|error| Error::unavailable(error.to_string()))?;
        }
        let departure = Departure::new(callers);
        // Waited for before the agent's time begins.
        let permit = self.permit(request).await;
        let mut sending = pin!(self.attempt(at, request, Some(&departure), permit));
        let response = match timeout(patience, sending.as_mut()).await {
            Ok(result) => result?,
            Err(_elapsed) if departure.withdraw() => {
                self.health.refused(at);
                return Err(self.silent(at));
            }
            Err(_elapsed) => sending.await?,
        };
        response.whole().await.inspect_err(|_| self.health.broke(at))
    }

    /// The agent that the next request is sent to, unless it turns out not to serve.
    pub(crate) fn next_agent(&self) -> &Arc<str> {
        &self.agents[self.health.first()].address
    }

    fn silent(&self, at: usize) -> Error {
        Error::unavailable(format!("{} did not answer", self.agents[at].address))
    }

    /// Waits until a request may be sent.
    async fn permit(&self, request: &Request) -> CallPermit {
        self.share.call(&request.target, request.body.len()).await
    }

    /// Makes one attempt at one agent, and notes how it ended.
    async fn attempt(
        &self,
        at: usize,
        request: &Request,
        departure: Option<&Arc<Departure>>,
        permit: CallPermit,
    ) -> Result<Response> {
        let waiting = WaitingFor { health: &self.health, agent: &self.agents[at], at, since: Some(Instant::now()) };
        let mut response = self.judge(at, waiting.answer(self.agents[at].send(request, departure)).await).await?;
        response.permit = Some(permit);
        Ok(response)
    }

    /// Notes the answer of an agent, and returns an error that is one for every call.
    async fn judge(&self, at: usize, result: Result<Response>) -> Result<Response> {
        let response = result.inspect_err(|_| self.health.broke(at))?;
        self.health.heard(at);
        let judged = response.judged().await;
        match &judged {
            Err(Error::Unavailable { .. } | Error::Indeterminate { .. } | Error::UnexpectedAnswer { .. }) => {
                self.health.refused(at);
            }
            // An agent that refuses a call has answered it.
            _ => self.health.served(at),
        }
        judged
    }

    /// Permits a blocking query, unless there are too many.
    pub(crate) fn try_wait(&self) -> Option<Permit> {
        self.share.try_wait()
    }

    /// How many requests calls may have in flight that come in large numbers; others find room beside them.
    pub(crate) fn most_calls(&self) -> usize {
        self.share.most_calls()
    }

    /// How many blocking queries may be watched at a time.
    pub(crate) fn queries(&self) -> usize {
        self.share.queries()
    }

    /// Makes one attempt of a read that takes at most `limit`. It does not count as an ordinary call.
    pub(crate) async fn wait(&self, target: String, limit: Duration) -> Result<Answer> {
        let request = reading(target, LISTING);
        let at = self.health.first();
        let sending = async { self.judge(at, self.agents[at].send(&request, None).await).await?.whole().await };
        timeout(limit, sending).await.unwrap_or_else(|_elapsed| {
            self.health.broke(at);
            Err(self.silent(at))
        })
    }
}

/// The order of the agents in one call.
struct Turns {
    untried: std::vec::IntoIter<usize>,
    backoff: Backoff,
    failed: usize,
}

impl Turns {
    fn new(order: Vec<usize>) -> Self {
        Self { untried: order.into_iter(), backoff: Backoff::new(BETWEEN_ROUNDS.0, BETWEEN_ROUNDS.1), failed: 0 }
    }

    /// The agent to ask next, of those that have not been `asked`. A new round begins if all have had their turn.
    fn next(&mut self, health: &Health, asked: &[usize]) -> Option<usize> {
        let next = self.untried.find(|at| !asked.contains(at));
        next.or_else(|| {
            self.untried = health.order().into_iter();
            self.untried.find(|at| !asked.contains(at))
        })
    }

    /// How long to wait for one agent before the next one is asked: a share of the time that is left.
    fn patience(&self, callers: &Callers) -> Duration {
        let agents = u32::try_from(self.untried.len() + 1).unwrap_or(u32::MAX).max(2);
        callers.time_left().map_or(PATIENCE, |left| PATIENCE.min(left / agents))
    }

    /// Reports a failed attempt, and returns the pause before the next one: none while others have not had their turn.
    fn failed(&mut self, callers: &Callers, agent: &str, error: &Error) -> Duration {
        self.failed += 1;
        callers.attempt_failed(error);
        attempt_failed(NAME, Some(agent), self.failed, error);
        if self.untried.len() > 0 { Duration::ZERO } else { self.backoff.next() }
    }
}

/// A caller that waits for an agent. If callers give up repeatedly, the agent counts as broken
/// ([clause S3](kv_core::contract::CLAUSES#S3)).
struct WaitingFor<'a> {
    health: &'a Arc<Health>,
    agent: &'a Arc<Agent>,
    at: usize,
    /// None once the agent has answered.
    since: Option<Instant>,
}

impl WaitingFor<'_> {
    async fn answer<T>(mut self, answer: impl Future<Output = T>) -> T {
        let answer = answer.await;
        self.since = None;
        answer
    }
}

impl Drop for WaitingFor<'_> {
    fn drop(&mut self) {
        let Some(since) = self.since else { return };
        if !self.health.gave_up(self.at, since, Instant::now()) || !self.agent.begin_probe() {
            return;
        }
        let (health, agent, at) = (self.health.clone(), self.agent.clone(), self.at);
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(probe(health, agent, at))),
            Err(_outside) => agent.end_probe(),
        }
    }
}

/// Asks an agent something harmless, however little time the calls have. If it answers, it counts as one that works, and
/// the connection is there for the next call.
async fn probe(health: Arc<Health>, agent: Arc<Agent>, at: usize) {
    let request = reading(HARMLESS.to_owned(), SMALL);
    let asking = async { agent.send(&request, None).await?.whole().await };
    if let Ok(Ok(_)) = timeout(CONNECT * 2, asking).await {
        health.heard(at);
    }
    agent.end_probe();
}

fn reading(target: String, cap: usize) -> Request {
    Request { method: Method::GET, target, body: Bytes::new(), idempotence: Idempotence::Repeatable, cap }
}
