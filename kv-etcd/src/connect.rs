//! Connecting: the constructor that the registration names.

use std::sync::Arc;

use kv_core::Result;
use kv_core::backend::{Address, Backend};

use crate::backend::Etcd;
use crate::config::Config;

/// Reads an address with its certificates; the first call connects.
///
/// # Errors
/// [`InvalidAddress`](kv_core::Error::InvalidAddress), naming the parameter that cannot be used.
pub(crate) fn connect(address: &Address) -> Result<Arc<dyn Backend>> {
    Ok(Arc::new(Etcd::new(Config::read(address)?)))
}
