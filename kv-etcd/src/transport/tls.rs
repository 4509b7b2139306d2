//! TLS by rustls: how a connection is encrypted, and what a failed handshake means.

use std::sync::Arc;

use kv_core::backend::{Address, tls};
use kv_core::{Error, Result};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::error::Unreachable;

/// The settings of TLS for one endpoint.
pub(crate) struct Tls {
    connector: TlsConnector,
    /// The name that the server's certificate must have.
    name: ServerName<'static>,
}

impl Tls {
    pub(crate) fn new(config: Arc<ClientConfig>, name: &str) -> Result<Self> {
        // An IPv6 address is in brackets.
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(bare.to_owned())
            .map_err(|_| Error::invalid_address(format!("{bare} is not a name that a certificate can have")))?;
        Ok(Self { connector: config.into(), name })
    }

    pub(crate) async fn handshake(&self, tcp: TcpStream) -> Result<TlsStream<TcpStream>, Unreachable> {
        self.connector.connect(self.name.clone(), tcp).await.map_err(|error| failed(&error))
    }
}

/// The error for a parameter of TLS in an address that does not ask for TLS.
pub(crate) fn needed_by(parameter: &str) -> Error {
    tls::needed_by(parameter, "etcds")
}

/// Reads the certificates that the address or the environment names.
pub(crate) fn client_config(address: &Address) -> Result<Arc<ClientConfig>> {
    let files = tls::Files {
        ca: address.setting("ca", "ETCDCTL_CACERT"),
        cert: address.setting("cert", "ETCDCTL_CERT"),
        key: address.setting("key", "ETCDCTL_KEY"),
    };
    let mut config = files.client_config()?;
    // gRPC uses HTTP/2, and a server may require that the client says so.
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// What a failed handshake says about the endpoint.
fn failed(error: &std::io::Error) -> Unreachable {
    use rustls::Error as Tls;
    match error.get_ref().and_then(|below| below.downcast_ref::<Tls>()) {
        Some(Tls::InvalidCertificate(why)) => Unreachable::wrong(format!("its certificate is not accepted: {why}")),
        Some(Tls::AlertReceived(alert)) => Unreachable::denied(format!("it refused the TLS handshake: {alert:?}")),
        Some(other) => Unreachable::wrong(format!("the TLS handshake failed: {other}")),
        // A server that stops hangs up, and so does one that expects plain text.
        None => Unreachable::for_now(format!("it hung up during the TLS handshake (does it speak TLS?): {error}")),
    }
}
