//! What stands for TLS in a build without it: an error that names the feature.
#![expect(clippy::unnecessary_wraps, reason = "the signatures are those of a build with TLS")]

use hyper_util::client::legacy::connect::HttpConnector;
use kv_core::{Address, Error, Result};

/// There are none.
pub(crate) enum Files {}

pub(crate) fn files(_address: &Address) -> Result<Files> {
    Err(missing("TLS"))
}

pub(crate) fn needed_by(parameter: &str) -> Error {
    missing(&format!("parameter `{parameter}`"))
}

/// What makes connections.
pub(crate) type Connector = HttpConnector;

pub(crate) fn connector(tcp: HttpConnector, _files: Option<&Files>, _server_name: Option<&str>) -> Result<Connector> {
    Ok(tcp)
}

fn missing(what: &str) -> Error {
    Error::invalid_address(format!("{what} needs kv-consul's feature `tls`, which this program is built without"))
}
