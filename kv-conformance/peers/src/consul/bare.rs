//! Reqwest alone: the same HTTP calls as kv-consul's, with as little work as possible on the answers.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use kv_conformance_program::bench::{Answer, Caller, Failure, OwnKeys};
use tokio::sync::Semaphore;

use crate::contest::Contender;
use crate::load::Load;

const NAME: &str = "bare reqwest";

#[derive(Clone)]
pub(crate) struct Agent {
    http: reqwest::Client,
    base: Arc<str>,
    /// The flags of the next write. Consul ignores a write that repeats the value and the flags.
    flags: Arc<AtomicU64>,
    /// How many connections there may be; reqwest itself has no limit.
    connections: Arc<Semaphore>,
}

impl Agent {
    pub(crate) fn new(endpoint: &str, connections: usize) -> Result<Self, Failure> {
        let base = format!("http://{endpoint}/v1/").into();
        let connections = Arc::new(Semaphore::new(connections));
        Ok(Self { http: crate::http::http()?, base, flags: Arc::default(), connections })
    }

    fn flags(&self) -> u64 {
        self.flags.fetch_add(1, Ordering::Relaxed)
    }

    async fn put(&self, target: &str, body: impl Into<reqwest::Body>) -> Result<Bytes, Failure> {
        let _connection = self.connections.acquire().await?;
        let answer = self.http.put([&*self.base, target].concat()).body(body).send().await?;
        Ok(answer.error_for_status()?.bytes().await?)
    }

    /// Also returns the index.
    async fn get(&self, target: &str) -> Result<(u64, Bytes), Failure> {
        let _connection = self.connections.acquire().await?;
        let answer = self.http.get([&*self.base, target].concat()).send().await?.error_for_status()?;
        let index = answer.headers().get("x-consul-index").ok_or("no index")?.to_str()?.parse()?;
        Ok((index, answer.bytes().await?))
    }

    async fn set(&self, key: &str, value: Bytes) -> Result<Bytes, Failure> {
        self.put(&format!("kv/{key}?flags={}", self.flags()), value).await
    }
}

struct Get(Agent, OwnKeys);

impl Caller for Get {
    async fn call(&mut self) -> Answer {
        black_box(self.0.get(&["kv/", self.1.next_key(), "?consistent"].concat()).await?);
        Ok(None)
    }
}

pub(crate) fn get(agent: &Agent, load: &Load, callers: usize) -> Contender {
    let (agent, load) = (agent.clone(), load.clone());
    Contender::new(NAME, move |caller| Get(agent.clone(), load.of(caller, callers)))
}

struct Set(Agent, OwnKeys, Bytes);

impl Caller for Set {
    async fn call(&mut self) -> Answer {
        black_box(self.0.set(self.1.next_key(), self.2.clone()).await?);
        Ok(None)
    }
}

pub(crate) fn set(agent: &Agent, load: &Load, callers: usize) -> Contender {
    let (agent, load) = (agent.clone(), load.clone());
    Contender::new("bare reqwest PUT", move |caller| Set(agent.clone(), load.of(caller, callers), load.value.clone()))
}

struct SetByTxn(Agent, OwnKeys, Bytes);

impl Caller for SetByTxn {
    async fn call(&mut self) -> Answer {
        let (key, value, flags) = (self.1.next_key(), STANDARD.encode(&self.2), self.0.flags());
        let body = format!(r#"[{{"KV":{{"Verb":"set","Key":"{key}","Value":"{value}","Flags":{flags}}}}}]"#);
        black_box(self.0.put("txn", body).await?);
        Ok(None)
    }
}

pub(crate) fn set_by_txn(agent: &Agent, load: &Load, callers: usize) -> Contender {
    let (agent, load) = (agent.clone(), load.clone());
    Contender::new(NAME, move |caller| SetByTxn(agent.clone(), load.of(caller, callers), load.value.clone()))
}

struct List(Agent, String);

impl Caller for List {
    async fn call(&mut self) -> Answer {
        black_box(self.0.get(&self.1).await?);
        Ok(None)
    }
}

pub(crate) fn list(agent: &Agent, load: &Load) -> Contender {
    let (agent, target) = (agent.clone(), format!("kv/{}?recurse&consistent", load.keys.prefix()));
    Contender::new("raw download", move |_| List(agent.clone(), target.clone()))
}

struct Watch {
    agent: Agent,
    value: Bytes,
    index: u64,
}

impl Watch {
    const KEY: &str = "watched/bare";

    async fn new(agent: Agent, value: Bytes) -> Result<Self, Failure> {
        agent.set(Self::KEY, value.clone()).await?;
        let (index, _) = agent.get(&format!("kv/{}?recurse&consistent", Self::KEY)).await?;
        Ok(Self { agent, value, index })
    }
}

impl Caller for Watch {
    async fn call(&mut self) -> Answer {
        let began = Instant::now();
        let target = format!("kv/{}?recurse&consistent&index={}&wait=60s", Self::KEY, self.index);
        let noticed = async {
            let answer = self.agent.get(&target).await;
            (answer, began.elapsed())
        };
        let (written, (answer, latency)) = futures_util::join!(self.agent.set(Self::KEY, self.value.clone()), noticed);
        written?;
        self.index = answer?.0;
        Ok(Some(latency))
    }
}

pub(crate) fn watch(agent: &Agent, load: &Load) -> Contender {
    let (agent, load) = (agent.clone(), load.clone());
    Contender::prepared("bare blocking query", move |_| {
        let (agent, value) = (agent.clone(), load.value.clone());
        async move {
            let mut caller = Some(Watch::new(agent, value).await?);
            Ok(move |_| caller.take().expect("one caller"))
        }
    })
}
