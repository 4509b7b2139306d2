//! The crate `rs-consul`, as shipped.

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use kv_conformance_program::bench::{Answer, Caller, OwnKeys};
use rs_consul::{Config, ConsistencyMode, Consul, CreateOrUpdateKeyRequest, ReadKeyRequest};

use crate::contest::Contender;
use crate::load::Load;

const NAME: &str = "rs-consul";

pub(crate) fn connect(endpoint: &str) -> Arc<Consul> {
    Arc::new(Consul::new(Config { address: format!("http://{endpoint}"), ..Config::default() }))
}

fn read(key: &str, recurse: bool) -> ReadKeyRequest<'_> {
    ReadKeyRequest { key, recurse, consistency: ConsistencyMode::Consistent, ..ReadKeyRequest::default() }
}

struct Get(Arc<Consul>, OwnKeys);

impl Caller for Get {
    async fn call(&mut self) -> Answer {
        let found = self.0.read_key(read(self.1.next_key(), false)).await?;
        black_box(found.response.into_iter().next().ok_or("no such key")?);
        Ok(None)
    }
}

pub(crate) fn get(client: &Arc<Consul>, load: &Load, callers: usize) -> Contender {
    let (client, load) = (client.clone(), load.clone());
    Contender::new(NAME, move |caller| Get(client.clone(), load.of(caller, callers)))
}

struct Set {
    client: Arc<Consul>,
    keys: OwnKeys,
    value: Bytes,
    /// The flags of the next write. Consul ignores a write that repeats the value and the flags.
    flags: u64,
}

impl Caller for Set {
    async fn call(&mut self) -> Answer {
        self.flags += 1;
        let request = CreateOrUpdateKeyRequest {
            key: self.keys.next_key(),
            flags: self.flags,
            ..CreateOrUpdateKeyRequest::default()
        };
        black_box(self.client.create_or_update_key(request, self.value.to_vec()).await?);
        Ok(None)
    }
}

pub(crate) fn set(client: &Arc<Consul>, load: &Load, callers: usize) -> Contender {
    let (client, load) = (client.clone(), load.clone());
    Contender::new(NAME, move |caller| Set {
        client: client.clone(),
        keys: load.of(caller, callers),
        value: load.value.clone(),
        flags: 0,
    })
}

struct List(Arc<Consul>, &'static str);

impl Caller for List {
    async fn call(&mut self) -> Answer {
        black_box(self.0.read_key(read(self.1, true)).await?.response);
        Ok(None)
    }
}

pub(crate) fn list(client: &Arc<Consul>, load: &Load) -> Contender {
    let (client, prefix) = (client.clone(), load.keys.prefix());
    Contender::new(NAME, move |_| List(client.clone(), prefix))
}
