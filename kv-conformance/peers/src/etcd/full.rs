//! The server's own limit: tonic alone, with full transactions that are not collected from callers.
//!
//! Three calls in flight for reads, or two for writes, carry the operations of all callers of the contest.

use std::hint::black_box;

use bytes::Bytes;
use kv_conformance_program::bench::{Answer, Caller, OwnKeys};
use prost::{Message, Oneof};
use tonic::transport::Channel;

use super::tonic::{Header, PutRequest, PutResponse, RangeRequest, RangeResponse, unary};
use crate::contest::Contender;
use crate::load::Load;

const NAME: &str = "full transactions";
/// How many calls are in flight.
const READS: usize = 3;
const WRITES: usize = 2;

#[derive(Clone, PartialEq, Message)]
struct Compare {
    /// 1: is greater.
    #[prost(int32, tag = "1")]
    result: i32,
    /// 2: the revision of the last write.
    #[prost(int32, tag = "2")]
    target: i32,
    #[prost(bytes = "bytes", tag = "3")]
    key: Bytes,
    #[prost(int64, tag = "6")]
    mod_revision: i64,
}

#[derive(Clone, PartialEq, Message)]
struct TxnRequest {
    #[prost(message, repeated, tag = "1")]
    compare: Vec<Compare>,
    #[prost(message, repeated, tag = "2")]
    success: Vec<RequestOp>,
}

#[derive(Clone, PartialEq, Message)]
struct RequestOp {
    #[prost(oneof = "Request", tags = "1, 2, 4")]
    request: Option<Request>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Request {
    #[prost(message, tag = "1")]
    Range(RangeRequest),
    #[prost(message, tag = "2")]
    Put(PutRequest),
    #[prost(message, tag = "4")]
    Txn(TxnRequest),
}

#[derive(Clone, PartialEq, Message)]
struct TxnResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    #[prost(bool, tag = "2")]
    succeeded: bool,
    #[prost(message, repeated, tag = "3")]
    responses: Vec<ResponseOp>,
}

#[derive(Clone, PartialEq, Message)]
struct ResponseOp {
    #[prost(oneof = "Response", tags = "1, 2, 4")]
    response: Option<Response>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Response {
    #[prost(message, tag = "1")]
    Range(RangeResponse),
    #[prost(message, tag = "2")]
    Put(PutResponse),
    #[prost(message, tag = "4")]
    Txn(TxnResponse),
}

struct Full<M> {
    channel: Channel,
    keys: OwnKeys,
    operations: usize,
    operation: M,
}

impl<M: FnMut(Bytes) -> Request + Send + 'static> Caller for Full<M> {
    async fn call(&mut self) -> Answer {
        let success = (0..self.operations).map(|_| {
            let key = Bytes::copy_from_slice(self.keys.next_key().as_bytes());
            RequestOp { request: Some((self.operation)(key)) }
        });
        let request = TxnRequest { compare: Vec::new(), success: success.collect() };
        let answer: TxnResponse = unary(&self.channel, "/etcdserverpb.KV/Txn", request).await?;
        black_box(answer.header.ok_or("no header")?.revision);
        if answer.responses.len() < self.operations {
            return Err("an answer is missing".into());
        }
        Ok(None)
    }
}

fn contender<M>(channel: &Channel, load: &Load, callers: usize, calls: usize, operation: M) -> Contender
where
    M: FnMut(Bytes) -> Request + Clone + Send + Sync + 'static,
{
    let (channel, load, operations) = (channel.clone(), load.clone(), callers / calls);
    let caller = move |caller| Full {
        channel: channel.clone(),
        keys: load.of(caller, calls),
        operations,
        operation: operation.clone(),
    };
    Contender::new(NAME, caller).carrying(operations, calls)
}

pub(crate) fn get(channel: &Channel, load: &Load, callers: usize) -> Contender {
    contender(channel, load, callers, READS, |key| Request::Range(RangeRequest { key, range_end: Bytes::new() }))
}

pub(crate) fn set(channel: &Channel, load: &Load, callers: usize) -> Contender {
    let value = load.value.clone();
    contender(channel, load, callers, WRITES, move |key| Request::Put(PutRequest { key, value: value.clone() }))
}

/// With a condition on each key that always holds, as in an update.
pub(crate) fn update(channel: &Channel, load: &Load, callers: usize) -> Contender {
    let value = load.value.clone();
    contender(channel, load, callers, WRITES, move |key| {
        let compare = vec![Compare { result: 1, target: 2, key: key.clone(), mod_revision: 0 }];
        let put = RequestOp { request: Some(Request::Put(PutRequest { key, value: value.clone() })) };
        Request::Txn(TxnRequest { compare, success: vec![put] })
    })
}
