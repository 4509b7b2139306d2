//! etcd's JSON gateway, with reqwest and serde.

use std::hint::black_box;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use kv_conformance_program::bench::{Answer, Caller, Failure, OwnKeys};
use serde::{Deserialize, Serialize};

use crate::contest::Contender;
use crate::load::Load;

const NAME: &str = "JSON gateway";

#[derive(Clone)]
pub(crate) struct Gateway {
    http: reqwest::Client,
    base: String,
}

#[derive(Serialize)]
struct Range {
    key: String,
}

#[derive(Serialize)]
struct Put {
    key: String,
    value: String,
}

#[derive(Deserialize)]
struct Found {
    kvs: Vec<KeyValue>,
}

#[derive(Deserialize)]
struct KeyValue {
    value: String,
}

impl Gateway {
    pub(crate) fn new(endpoint: &str) -> Result<Self, Failure> {
        Ok(Self { http: crate::http::http()?, base: format!("http://{endpoint}/v3/kv/") })
    }

    async fn ask(&self, what: &str, body: &impl Serialize) -> Result<Bytes, Failure> {
        let answer = self.http.post(format!("{}{what}", self.base)).json(body).send().await?;
        Ok(answer.error_for_status()?.bytes().await?)
    }
}

struct Get(Gateway, OwnKeys);

impl Caller for Get {
    async fn call(&mut self) -> Answer {
        let answer = self.0.ask("range", &Range { key: STANDARD.encode(self.1.next_key()) }).await?;
        let found: Found = serde_json::from_slice(&answer)?;
        black_box(STANDARD.decode(&found.kvs.first().ok_or("no such key")?.value)?);
        Ok(None)
    }
}

pub(crate) fn get(gateway: &Gateway, load: &Load, callers: usize) -> Contender {
    let (gateway, load) = (gateway.clone(), load.clone());
    Contender::new(NAME, move |caller| Get(gateway.clone(), load.of(caller, callers)))
}

struct Set(Gateway, OwnKeys, Bytes);

impl Caller for Set {
    async fn call(&mut self) -> Answer {
        let put = Put { key: STANDARD.encode(self.1.next_key()), value: STANDARD.encode(&self.2) };
        black_box(serde_json::from_slice::<serde_json::Value>(&self.0.ask("put", &put).await?)?);
        Ok(None)
    }
}

pub(crate) fn set(gateway: &Gateway, load: &Load, callers: usize) -> Contender {
    let (gateway, load) = (gateway.clone(), load.clone());
    Contender::new(NAME, move |caller| Set(gateway.clone(), load.of(caller, callers), load.value.clone()))
}
