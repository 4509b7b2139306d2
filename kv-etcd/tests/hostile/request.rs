//! Requests of etcd's API, with the fields that the store in `minimal` reads.

use prost::Message;

#[derive(Message)]
pub(crate) struct Range {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) end: Vec<u8>,
    #[prost(int64, tag = "3")]
    pub(crate) limit: i64,
    /// 0: now.
    #[prost(int64, tag = "4")]
    pub(crate) revision: i64,
    /// 2: descending.
    #[prost(int32, tag = "5")]
    pub(crate) order: i32,
    /// 2: by create revision.
    #[prost(int32, tag = "6")]
    pub(crate) target: i32,
    #[prost(bool, tag = "8")]
    pub(crate) keys_only: bool,
    #[prost(int64, tag = "13")]
    pub(crate) max_create: i64,
}

#[derive(Message)]
pub(crate) struct Put {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) value: Vec<u8>,
    #[prost(int64, tag = "3")]
    pub(crate) lease: i64,
}

#[derive(Message)]
pub(crate) struct Delete {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) end: Vec<u8>,
}

/// A comparison for equality.
#[derive(Message)]
pub(crate) struct Compare {
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) key: Vec<u8>,
    #[prost(int64, optional, tag = "5")]
    pub(crate) create: Option<i64>,
    #[prost(int64, optional, tag = "6")]
    pub(crate) modify: Option<i64>,
    #[prost(int64, optional, tag = "8")]
    pub(crate) lease: Option<i64>,
    #[prost(bytes = "vec", tag = "64")]
    pub(crate) end: Vec<u8>,
}

#[derive(Message)]
pub(crate) struct Operation {
    #[prost(message, optional, tag = "1")]
    pub(crate) range: Option<Range>,
    #[prost(message, optional, tag = "2")]
    pub(crate) put: Option<Put>,
    #[prost(message, optional, tag = "3")]
    pub(crate) delete: Option<Delete>,
    #[prost(message, optional, boxed, tag = "4")]
    pub(crate) txn: Option<Box<Txn>>,
}

#[derive(Message)]
pub(crate) struct Txn {
    #[prost(message, repeated, tag = "1")]
    pub(crate) compare: Vec<Compare>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) success: Vec<Operation>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) failure: Vec<Operation>,
}

/// A request for a lease: its time to live in seconds, and its id.
#[derive(Message)]
pub(crate) struct Grant {
    #[prost(int64, tag = "1")]
    pub(crate) ttl: i64,
    #[prost(int64, tag = "2")]
    pub(crate) id: i64,
}

/// A request that names a lease.
#[derive(Message)]
pub(crate) struct OfLease {
    #[prost(int64, tag = "1")]
    pub(crate) id: i64,
}

#[derive(Message)]
pub(crate) struct WatchRequest {
    #[prost(message, optional, tag = "1")]
    pub(crate) create: Option<WatchCreate>,
}

#[derive(Message)]
pub(crate) struct WatchCreate {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) end: Vec<u8>,
    #[prost(int64, tag = "3")]
    pub(crate) start: i64,
    #[prost(int64, tag = "7")]
    pub(crate) id: i64,
}
