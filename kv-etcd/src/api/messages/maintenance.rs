//! The service Maintenance.

use kv_core::backend::fate::Idempotence;
use prost::Message;

use super::call::{Call, calls, repeatable};

calls! {
    StatusRequest => StatusResponse, "/etcdserverpb.Maintenance/Status", repeatable;
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct StatusRequest {}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct StatusResponse {
    /// The member id of the leader; 0: none.
    #[prost(uint64, tag = "4")]
    pub(crate) leader: u64,
    /// Problems of the cluster, alarms included.
    #[prost(string, repeated, tag = "8")]
    pub(crate) errors: Vec<String>,
    #[prost(bool, tag = "10")]
    pub(crate) is_learner: bool,
}
