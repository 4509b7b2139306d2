//! Tonic alone: the same messages as kv-etcd's, with one call for each.

use std::hint::black_box;
use std::time::Instant;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::uri::PathAndQuery;
use kv_conformance_program::bench::{Answer, Caller, Failure, OwnKeys};
use prost::Message;
use tokio::sync::mpsc;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{IntoRequest as _, Streaming};
use tonic_prost::ProstCodec;

use crate::contest::Contender;
use crate::load::Load;

const NAME: &str = "bare tonic";

#[derive(Clone, PartialEq, Message)]
pub(super) struct Header {
    #[prost(int64, tag = "3")]
    pub(super) revision: i64,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(int64, tag = "3")]
    mod_revision: i64,
    #[prost(bytes = "bytes", tag = "5")]
    value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct RangeRequest {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) range_end: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct RangeResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    #[prost(message, repeated, tag = "2")]
    kvs: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PutResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
}

#[derive(Clone, PartialEq, Message)]
struct WatchRequest {
    #[prost(message, optional, tag = "1")]
    create: Option<WatchCreateRequest>,
}

#[derive(Clone, PartialEq, Message)]
struct WatchCreateRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct WatchResponse {
    #[prost(message, repeated, tag = "11")]
    events: Vec<Event>,
}

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(message, optional, tag = "2")]
    kv: Option<KeyValue>,
}

pub(crate) async fn connect(endpoint: &str) -> Result<Channel, Failure> {
    Ok(Endpoint::new(format!("http://{endpoint}"))?.connect().await?)
}

pub(super) async fn unary<Q, A>(channel: &Channel, method: &'static str, request: Q) -> Result<A, Failure>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    let mut grpc = Grpc::new(channel.clone()).max_decoding_message_size(usize::MAX);
    grpc.ready().await?;
    let path = PathAndQuery::from_static(method);
    Ok(grpc.unary(request.into_request(), path, ProstCodec::<Q, A>::default()).await?.into_inner())
}

async fn range(channel: &Channel, key: &str, range_end: &[u8]) -> Result<RangeResponse, Failure> {
    let (key, range_end) = (Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(range_end));
    unary(channel, "/etcdserverpb.KV/Range", RangeRequest { key, range_end }).await
}

async fn put(channel: &Channel, key: &str, value: Bytes) -> Result<PutResponse, Failure> {
    let key = Bytes::copy_from_slice(key.as_bytes());
    unary(channel, "/etcdserverpb.KV/Put", PutRequest { key, value }).await
}

struct Get(Channel, OwnKeys);

impl Caller for Get {
    async fn call(&mut self) -> Answer {
        let mut found = range(&self.0, self.1.next_key(), &[]).await?;
        black_box(found.kvs.pop().ok_or("no such key")?);
        Ok(None)
    }
}

pub(crate) fn get(channel: &Channel, load: &Load, callers: usize) -> Contender {
    let (channel, load) = (channel.clone(), load.clone());
    Contender::new(NAME, move |caller| Get(channel.clone(), load.of(caller, callers)))
}

struct Set(Channel, OwnKeys, Bytes);

impl Caller for Set {
    async fn call(&mut self) -> Answer {
        black_box(put(&self.0, self.1.next_key(), self.2.clone()).await?.header.ok_or("no header")?);
        Ok(None)
    }
}

pub(crate) fn set(channel: &Channel, load: &Load, callers: usize) -> Contender {
    let (channel, load) = (channel.clone(), load.clone());
    Contender::new(NAME, move |caller| Set(channel.clone(), load.of(caller, callers), load.value.clone()))
}

struct List(Channel, &'static str);

impl Caller for List {
    async fn call(&mut self) -> Answer {
        let mut end = self.1.as_bytes().to_vec();
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        black_box(range(&self.0, self.1, &end).await?.kvs);
        Ok(None)
    }
}

pub(crate) fn list(channel: &Channel, load: &Load) -> Contender {
    let (channel, prefix) = (channel.clone(), load.keys.prefix());
    Contender::new(NAME, move |_| List(channel.clone(), prefix))
}

struct Watch {
    channel: Channel,
    value: Bytes,
    answers: Streaming<WatchResponse>,
    /// Keeps the stream of requests open.
    _requests: mpsc::Sender<WatchRequest>,
}

impl Watch {
    const KEY: &str = "watched/tonic";

    async fn new(channel: Channel, value: Bytes) -> Result<Self, Failure> {
        let create = WatchCreateRequest { key: Bytes::from_static(Self::KEY.as_bytes()) };
        let (sender, mut receiver) = mpsc::channel(1);
        sender.send(WatchRequest { create: Some(create) }).await?;
        let requests = futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx));
        let mut grpc = Grpc::new(channel.clone());
        grpc.ready().await?;
        let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
        let codec = ProstCodec::<WatchRequest, WatchResponse>::default();
        let mut answers = grpc.streaming(tonic::Request::new(requests), path, codec).await?.into_inner();
        // The first answer confirms that the watch is open.
        answers.message().await?;
        Ok(Self { channel, value, answers, _requests: sender })
    }
}

impl Caller for Watch {
    async fn call(&mut self) -> Answer {
        let began = Instant::now();
        let noticed = async {
            let answer = self.answers.next().await;
            (answer, began.elapsed())
        };
        let (written, (answer, latency)) =
            futures_util::join!(put(&self.channel, Self::KEY, self.value.clone()), noticed);
        written?;
        black_box(answer.ok_or("the watch has ended")??.events.pop().ok_or("no event")?);
        Ok(Some(latency))
    }
}

pub(crate) fn watch(channel: &Channel, load: &Load) -> Contender {
    let (channel, load) = (channel.clone(), load.clone());
    Contender::prepared(NAME, move |_| {
        let (channel, value) = (channel.clone(), load.value.clone());
        async move {
            let mut caller = Some(Watch::new(channel, value).await?);
            Ok(move |_| caller.take().expect("one caller"))
        }
    })
}
