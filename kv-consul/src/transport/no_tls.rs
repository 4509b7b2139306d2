//! The stand-in for TLS in a build without it. `Config` has already refused every address that needs TLS.
#![expect(clippy::unnecessary_wraps, clippy::unused_self, reason = "the signatures are those of a build with TLS")]

use kv_core::Result;
use reqwest::ClientBuilder;

use super::fault::Fault;
use crate::config::Config;

pub(crate) struct Tls;

impl Tls {
    pub(crate) fn read(_config: &Config) -> Result<Self> {
        Ok(Self)
    }

    /// If another part of the program gave reqwest its TLS, that part also named a crypto provider.
    pub(crate) fn prepare(&self, client: ClientBuilder) -> ClientBuilder {
        client
    }
}

/// No error is about TLS.
pub(super) fn fault(_error: &(dyn std::error::Error + 'static), _agent: &str) -> Option<Fault> {
    None
}
