//! TLS settings in the form that reqwest takes.

use kv_core::Result;
use kv_core::backend::tls::{Files, trusting_nobody};
use reqwest::ClientBuilder;
use rustls::ClientConfig;

use crate::config::Config;

/// The TLS settings of all agents, read from files once.
pub(crate) struct Tls(ClientConfig);

impl Tls {
    pub(crate) fn read(config: &Config) -> Result<Self> {
        let files = |files: &crate::config::TlsFiles| {
            let files = files.clone();
            Files { ca: files.ca, cert: files.cert, key: files.key }.client_config()
        };
        // Agents that speak plain text get a configuration too: reqwest would look for a crypto provider otherwise.
        config.tls.as_ref().map_or_else(trusting_nobody, files).map(Self)
    }

    pub(crate) fn prepare(&self, client: ClientBuilder) -> ClientBuilder {
        client.tls_backend_preconfigured(self.0.clone())
    }
}
