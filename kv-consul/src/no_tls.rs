//! What stands for TLS in a build without it: an error that names the feature.
#![expect(clippy::unnecessary_wraps, reason = "the signatures are those of a build with TLS")]

use kv_core::{Address, Error, Result};
use reqwest::ClientBuilder;

/// There are none.
pub(crate) enum Files {}

pub(crate) fn files(_address: &Address) -> Result<Files> {
    Err(missing("TLS"))
}

pub(crate) fn needed_by(parameter: &str) -> Error {
    missing(&format!("parameter `{parameter}`"))
}

/// Should another part of the program have given reqwest its TLS, that part has also named a crypto provider.
pub(crate) fn prepare(client: ClientBuilder, _files: Option<&Files>) -> Result<ClientBuilder> {
    Ok(client)
}

fn missing(what: &str) -> Error {
    Error::invalid_address(format!("{what} needs kv-consul's feature `tls`, which this program is built without"))
}
