//! The TLS configuration for reqwest, and the errors for failed handshakes.

use kv_core::Result;
use kv_core::backend::tls::{Files, trusting_nobody};
use reqwest::ClientBuilder;
use rustls::ClientConfig;

use super::fault::Fault;
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

/// The fault, if an error is about TLS.
pub(super) fn fault(error: &(dyn std::error::Error + 'static), agent: &str) -> Option<Fault> {
    use rustls::Error as Failed;
    Some(match error.downcast_ref::<Failed>()? {
        // The agent answered in plain text.
        Failed::InvalidMessage(_) => Fault::Wrong(format!(
            "{agent} does not speak TLS: name a port that does, or write `consul://` (or `http://`) for plain text"
        )),
        Failed::InvalidCertificate(why) => {
            Fault::Wrong(format!("the certificate of {agent} is not accepted: {why} (`ca` and `server-name` decide)"))
        }
        // With TLS 1.3 an agent refuses the client's certificate only after the handshake, but before it reads a
        // request.
        Failed::AlertReceived(alert) => Fault::Denied(format!(
            "{agent} refused the TLS connection: {alert:?} (it may want a certificate of this client: `cert` and `key`)"
        )),
        other => Fault::Wrong(format!("TLS with {agent} failed: {other}")),
    })
}
