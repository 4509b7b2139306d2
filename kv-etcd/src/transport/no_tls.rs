//! The replacement for TLS in a build without the feature: an error that names it.
#![expect(
    clippy::needless_pass_by_value,
    clippy::unused_async,
    reason = "the signatures are those of a build with TLS"
)]

use std::convert::Infallible;
use std::sync::Arc;

use kv_core::backend::Address;
use kv_core::{Error, Result};
use tokio::net::TcpStream;

use crate::error::Unreachable;

/// No connection is encrypted.
pub(crate) enum Tls {}

impl Tls {
    pub(crate) fn new(config: Arc<Infallible>, _name: &str) -> Result<Self> {
        match *config {}
    }

    pub(crate) async fn handshake(&self, _tcp: TcpStream) -> Result<TcpStream, Unreachable> {
        match *self {}
    }
}

pub(crate) fn client_config(_address: &Address) -> Result<Arc<Infallible>> {
    Err(missing("TLS"))
}

pub(crate) fn needed_by(parameter: &str) -> Error {
    missing(&format!("parameter `{parameter}`"))
}

fn missing(what: &str) -> Error {
    Error::invalid_address(format!("{what} needs kv-etcd's feature `tls`, which this program is built without"))
}
