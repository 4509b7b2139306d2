//! TLS: whom to trust, and who we are.

use std::sync::Arc;

use kv_core::{Address, Error, Result};
use reqwest::ClientBuilder;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};
use rustls_platform_verifier::BuilderVerifierExt as _;

/// The files that TLS is set up from.
#[derive(Debug, Default)]
pub(crate) struct Files {
    /// Authorities to trust instead of the system's.
    pub(crate) ca: Option<String>,
    /// The client's certificate, with its chain.
    pub(crate) cert: Option<String>,
    /// Its private key.
    pub(crate) key: Option<String>,
}

/// The error for a parameter of TLS in an address that does not ask for TLS.
pub(crate) fn needed_by(parameter: &str) -> Error {
    Error::invalid_address(format!("parameter `{parameter}` needs TLS: write `consuls://`"))
}

/// The files that the address and the environment name.
pub(crate) fn files(address: &Address) -> Result<Files> {
    if address.environment("CONSUL_HTTP_SSL_VERIFY").is_some_and(|value| is_false(&value)) {
        let what = "CONSUL_HTTP_SSL_VERIFY turns verification off, which is not supported: name the authority in `ca`";
        return Err(Error::invalid_address(what));
    }
    Ok(Files {
        ca: address.setting("ca", "CONSUL_CACERT"),
        cert: address.setting("cert", "CONSUL_CLIENT_CERT"),
        key: address.setting("key", "CONSUL_CLIENT_KEY"),
    })
}

fn is_false(text: &str) -> bool {
    matches!(text, "0" | "f" | "F" | "false" | "FALSE" | "False")
}

/// Gives the client what it needs for agents that speak TLS, or for those that do not.
pub(crate) fn prepare(client: ClientBuilder, files: Option<&Files>) -> Result<ClientBuilder> {
    Ok(client.tls_backend_preconfigured(files.map_or_else(none, config)?))
}

/// Reads the files, and builds what reqwest is given.
///
/// The crypto provider is named here, so that what else the program links cannot decide it.
fn config(files: &Files) -> Result<ClientConfig> {
    let builder = builder()?;
    let builder = match &files.ca {
        Some(path) => builder.with_root_certificates(authorities(path)?),
        None => builder
            .with_platform_verifier()
            .map_err(|error| Error::invalid_address(format!("the system's authorities cannot be read: {error}")))?,
    };
    match (&files.cert, &files.key) {
        (None, None) => Ok(builder.with_no_client_auth()),
        (Some(cert), Some(key)) => {
            let private = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable("key", key, &error))?;
            builder.with_client_auth_cert(certificates("cert", cert)?, private).map_err(|error| {
                Error::invalid_address(format!("the client's certificate and its key do not go together: {error}"))
            })
        }
        (Some(_), None) => Err(Error::invalid_address("a client certificate needs its `key`")),
        (None, Some(_)) => Err(Error::invalid_address("a client key needs its certificate, `cert`")),
    }
}

/// Trusts nobody: for agents that are spoken to in plain text. reqwest would look for a provider there too.
fn none() -> Result<ClientConfig> {
    Ok(builder()?.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

fn builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>> {
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::invalid_address(format!("TLS cannot be set up: {error}")))
}

fn authorities(path: &str) -> Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    for certificate in certificates("ca", path)? {
        store.add(certificate).map_err(|error| unreadable("ca", path, &error))?;
    }
    Ok(store)
}

fn certificates(parameter: &str, path: &str) -> Result<Vec<CertificateDer<'static>>> {
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| unreadable(parameter, path, &error))?;
    if certificates.is_empty() {
        return Err(unreadable(parameter, path, &"no certificate in it"));
    }
    Ok(certificates)
}

fn unreadable(parameter: &str, path: &str, error: &dyn std::fmt::Display) -> Error {
    Error::invalid_address(format!("the file of `{parameter}`, {path:?}, cannot be used: {error}"))
}
