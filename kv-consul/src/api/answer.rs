//! An answer of an agent, received in full.

use bytes::Bytes;
use hyper::StatusCode;
use kv_core::backend::fate::Idempotence;
use kv_core::{Error, Result};
use serde::Deserialize;

use crate::error::excerpt;

/// An answer whose status its call still has to judge.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// `X-Consul-Index`. Only Consul sends it, and only for reads that can block.
    pub(crate) index: Option<u64>,
    pub(crate) body: Bytes,
    /// Whether the request was one that may be sent twice.
    pub(crate) idempotence: Idempotence,
}

impl Answer {
    /// The index of an answer about keys. An answer without one comes from another kind of server.
    pub(crate) fn index(&self) -> Result<u64> {
        // 0 means that nothing was ever written; Consul's documentation asks clients to treat it as 1.
        self.index.map(|index| index.max(1)).ok_or_else(|| self.unexpected())
    }

    /// Reads the body as JSON.
    pub(crate) fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T> {
        serde_json::from_slice(&self.body).map_err(|error| self.unexpected().with_source(error))
    }

    /// The error for an answer that makes no sense: neither an error that Consul reports nor a result.
    ///
    /// It proves nothing, so a write may have been applied ([clause W6](kv_core::contract::CLAUSES#W6)).
    pub(crate) fn unexpected(&self) -> Error {
        let (status, text) = (self.status.as_u16(), excerpt(&self.body));
        let reason = format!("this is not how Consul answers: {status} with {text}");
        match self.idempotence {
            Idempotence::Repeatable => Error::unexpected_answer(reason),
            Idempotence::Once => Error::indeterminate(reason),
        }
    }
}
