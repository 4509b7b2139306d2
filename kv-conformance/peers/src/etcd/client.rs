//! The crate `etcd-client`, as shipped.

use std::hint::black_box;
use std::time::Instant;

use etcd_client::{
    Client, Compare, CompareOp, GetOptions, KeyValue, KvClient, ResponseHeader, Txn, TxnOp, WatchStream,
};
use kv_conformance_program::bench::{Answer, Caller, Failure, OwnKeys};

use crate::contest::Contender;
use crate::load::Load;

const NAME: &str = "etcd-client";

struct Get(KvClient, OwnKeys);

impl Caller for Get {
    async fn call(&mut self) -> Answer {
        let mut found = self.0.get(self.1.next_key(), None).await?;
        black_box(found.take_kvs().pop().ok_or("no such key")?);
        Ok(None)
    }
}

pub(crate) fn get(client: &Client, load: &Load, callers: usize) -> Contender {
    let (client, load) = (client.kv_client(), load.clone());
    Contender::new(NAME, move |caller| Get(client.clone(), load.of(caller, callers)))
}

struct Set(KvClient, OwnKeys, bytes::Bytes);

impl Caller for Set {
    async fn call(&mut self) -> Answer {
        let put = self.0.put(self.1.next_key(), self.2.clone(), None).await?;
        black_box(put.header().map(ResponseHeader::revision));
        Ok(None)
    }
}

pub(crate) fn set(client: &Client, load: &Load, callers: usize) -> Contender {
    let (client, load) = (client.kv_client(), load.clone());
    Contender::new(NAME, move |caller| Set(client.clone(), load.of(caller, callers), load.value.clone()))
}

struct Update {
    client: KvClient,
    keys: OwnKeys,
    value: bytes::Bytes,
    /// The revision of each key, by the position of the key.
    revisions: Vec<i64>,
}

impl Caller for Update {
    async fn call(&mut self) -> Answer {
        let at = self.keys.next_position();
        let key = self.keys.key_at(at);
        let txn = Txn::new()
            .when([Compare::mod_revision(key, CompareOp::Equal, self.revisions[at])])
            .and_then([TxnOp::put(key, self.value.clone(), None)]);
        let answer = self.client.txn(txn).await?;
        if !answer.succeeded() {
            return Err("a conflict".into());
        }
        self.revisions[at] = answer.header().ok_or("no header")?.revision();
        Ok(None)
    }
}

pub(crate) fn update(client: &Client, load: &Load) -> Contender {
    let (client, load) = (client.kv_client(), load.clone());
    Contender::prepared(NAME, move |callers| {
        let (mut client, load) = (client.clone(), load.clone());
        async move {
            let found = client.get(load.keys.prefix(), Some(GetOptions::new().with_prefix())).await?;
            let revisions: Vec<i64> = found.kvs().iter().map(KeyValue::mod_revision).collect();
            Ok(move |caller| Update {
                client: client.clone(),
                keys: load.of(caller, callers),
                value: load.value.clone(),
                revisions: revisions.clone(),
            })
        }
    })
}

struct List(KvClient, &'static str);

impl Caller for List {
    async fn call(&mut self) -> Answer {
        let mut found = self.0.get(self.1, Some(GetOptions::new().with_prefix())).await?;
        black_box(found.take_kvs());
        Ok(None)
    }
}

pub(crate) fn list(client: &Client, load: &Load) -> Contender {
    let (client, prefix) = (client.kv_client(), load.keys.prefix());
    Contender::new(NAME, move |_| List(client.clone(), prefix))
}

struct Watch {
    client: KvClient,
    stream: WatchStream,
    value: bytes::Bytes,
}

impl Watch {
    const KEY: &str = "watched/etcd-client";

    async fn new(mut client: Client, value: bytes::Bytes) -> Result<Self, Failure> {
        let mut stream = client.watch(Self::KEY, None).await?;
        // The first answer confirms that the watch is open.
        stream.message().await?;
        Ok(Self { client: client.kv_client(), stream, value })
    }
}

impl Caller for Watch {
    async fn call(&mut self) -> Answer {
        let began = Instant::now();
        let noticed = async {
            let answer = self.stream.message().await;
            (answer, began.elapsed())
        };
        let put = self.client.put(Self::KEY, self.value.clone(), None);
        let (written, (answer, latency)) = futures_util::join!(put, noticed);
        written?;
        black_box(answer?.ok_or("the watch has ended")?.events().first().ok_or("no event")?);
        Ok(Some(latency))
    }
}

pub(crate) fn watch(client: &Client, load: &Load) -> Contender {
    let (client, load) = (client.clone(), load.clone());
    Contender::prepared(NAME, move |_| {
        let (client, value) = (client.clone(), load.value.clone());
        async move {
            let mut caller = Some(Watch::new(client, value).await?);
            Ok(move |_| caller.take().expect("one caller"))
        }
    })
}
