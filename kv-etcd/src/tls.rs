//! TLS by rustls: certificates from files or from the platform, and what a failed handshake means.

use std::sync::Arc;

use kv_core::{Address, Error, Result};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::error::Unreachable;

/// How to encrypt the connection to one endpoint.
pub(crate) struct Tls {
    connector: TlsConnector,
    /// The name that the server's certificate must have.
    name: ServerName<'static>,
}

impl Tls {
    pub(crate) fn new(config: Arc<ClientConfig>, name: &str) -> Result<Self> {
        // An IPv6 address comes in brackets.
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
    Error::invalid_address(format!("parameter `{parameter}` needs TLS: write `etcds://`"))
}

/// Reads the certificates that the address or the environment names.
pub(crate) fn client_config(address: &Address) -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::invalid_address(format!("TLS cannot be set up: {error}")))?
        .with_root_certificates(roots(address)?);
    let cert = address.setting("cert", "ETCDCTL_CERT");
    let key = address.setting("key", "ETCDCTL_KEY");
    let mut config = match (cert, key) {
        (None, None) => builder.with_no_client_auth(),
        (Some(cert), Some(key)) => {
            let chain = certificates("cert", &cert)?;
            let key = PrivateKeyDer::from_pem_file(&key).map_err(|error| unreadable("key", &key, &error))?;
            let config = builder.with_client_auth_cert(chain, key);
            config.map_err(|error| {
                Error::invalid_address(format!("parameters `cert` and `key` do not go together: {error}"))
            })?
        }
        (Some(_), None) => return Err(Error::invalid_address("parameter `cert` needs parameter `key`")),
        (None, Some(_)) => return Err(Error::invalid_address("parameter `key` needs parameter `cert`")),
    };
    // gRPC is HTTP/2, and a server may insist on being told.
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

fn roots(address: &Address) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = address.setting("ca", "ETCDCTL_CACERT") {
        for certificate in certificates("ca", &path)? {
            roots.add(certificate).map_err(|error| unreadable("ca", &path, &error))?;
        }
        return Ok(roots);
    }
    let native = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(native.certs);
    if roots.is_empty() {
        return Err(Error::invalid_address("this machine has no root certificates: name a file in parameter `ca`"));
    }
    Ok(roots)
}

fn certificates(parameter: &str, path: &str) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>);
    let certificates = read.map_err(|error| unreadable(parameter, path, &error))?;
    if certificates.is_empty() {
        return Err(unreadable(parameter, path, &"it holds no certificate"));
    }
    Ok(certificates)
}

fn unreadable(parameter: &str, path: &str, why: &dyn std::fmt::Display) -> Error {
    Error::invalid_address(format!("parameter `{parameter}`: {path} cannot be used: {why}"))
}

/// What a failed handshake says about the endpoint.
fn failed(error: &std::io::Error) -> Unreachable {
    use rustls::Error as Tls;
    match error.get_ref().and_then(|below| below.downcast_ref::<Tls>()) {
        Some(Tls::InvalidCertificate(why)) => Unreachable::wrong(format!("its certificate is not accepted: {why}")),
        Some(Tls::AlertReceived(alert)) => Unreachable::denied(format!("it refused the TLS handshake: {alert:?}")),
        Some(other) => Unreachable::wrong(format!("the TLS handshake failed: {other}")),
        // What a server that stops does, and one that takes the handshake for broken plain text.
        None => Unreachable::for_now(format!("it hung up during the TLS handshake (does it speak TLS?): {error}")),
    }
}
