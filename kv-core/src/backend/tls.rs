//! TLS by rustls: which authorities to trust, and the client's own certificate.

use std::fmt::Display;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};

use crate::{Error, Result};

/// The files, in PEM form, that TLS is set up from.
///
/// ```
/// # use kv_core::backend::tls::Files;
/// let files = Files { ca: Some("/does/not/exist.pem".to_owned()), ..Files::default() };
/// let error = files.client_config().unwrap_err();
/// assert!(error.to_string().contains("parameter `ca`"));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    /// The authorities to trust instead of the system's.
    pub ca: Option<String>,
    /// The client's certificate, followed by its chain.
    pub cert: Option<String>,
    /// The private key of the client's certificate.
    pub key: Option<String>,
}

impl Files {
    /// Reads the files, and the system's authorities if no file names others.
    ///
    /// The configuration names its crypto provider, so that it does not depend on what else the program links. It
    /// verifies certificates; nothing turns that off ([clause A4](crate::contract::CLAUSES#A4)).
    ///
    /// # Errors
    /// [`Error::InvalidAddress`] naming the parameter and the file that cannot be used.
    pub fn client_config(&self) -> Result<ClientConfig> {
        let builder = builder()?.with_root_certificates(self.authorities()?);
        match (&self.cert, &self.key) {
            (None, None) => Ok(builder.with_no_client_auth()),
            (Some(cert), Some(key)) => {
                let chain = certificates("cert", cert)?;
                let key = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable("key", key, &error))?;
                builder.with_client_auth_cert(chain, key).map_err(|error| {
                    Error::invalid_address(format!("parameters `cert` and `key` do not go together: {error}"))
                })
            }
            (Some(_), None) => Err(Error::invalid_address("parameter `cert` needs parameter `key`")),
            (None, Some(_)) => Err(Error::invalid_address("parameter `key` needs parameter `cert`")),
        }
    }

    fn authorities(&self) -> Result<RootCertStore> {
        let mut store = RootCertStore::empty();
        if let Some(path) = &self.ca {
            for certificate in certificates("ca", path)? {
                store.add(certificate).map_err(|error| unusable("ca", path, &error))?;
            }
            return Ok(store);
        }
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if store.is_empty() {
            return Err(Error::invalid_address("this machine has no root certificates: name a file in parameter `ca`"));
        }
        Ok(store)
    }
}

/// A configuration that trusts no server: for a client that never uses TLS but must be given a configuration.
///
/// # Errors
/// [`Error::InvalidAddress`] if the crypto provider supports no version of TLS.
pub fn trusting_nobody() -> Result<ClientConfig> {
    Ok(builder()?.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

/// The error for a parameter of TLS in an address whose scheme does not use TLS.
pub fn needed_by(parameter: &str, scheme: &str) -> Error {
    Error::invalid_address(format!("parameter `{parameter}` needs TLS: write `{scheme}://`"))
}

fn builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>> {
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::invalid_address(format!("TLS cannot be set up: {error}")))
}

fn certificates(parameter: &str, path: &str) -> Result<Vec<CertificateDer<'static>>> {
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| unusable(parameter, path, &error))?;
    if certificates.is_empty() {
        return Err(unusable(parameter, path, &"it holds no certificate"));
    }
    Ok(certificates)
}

fn unusable(parameter: &str, path: &str, why: &dyn Display) -> Error {
    Error::invalid_address(format!("parameter `{parameter}`: the file {path:?} cannot be used: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, text: &str) -> String {
        let path = std::env::temp_dir().join(format!("kv-core-tls-{}-{name}", std::process::id()));
        std::fs::write(&path, text).expect("a file");
        path.to_string_lossy().into_owned()
    }

    #[test]
    fn a_missing_or_invalid_file_is_named() {
        let empty = file("empty.pem", "");
        let named = |files: Files| files.client_config().expect_err("unusable").to_string();
        let some = |text: &str| Some(text.to_owned());
        let error = named(Files { ca: Some(empty.clone()), ..Files::default() });
        assert!(error.contains("parameter `ca`") && error.contains("no certificate"), "{error}");
        let error = named(Files { ca: some("/absent"), ..Files::default() });
        assert!(error.contains("\"/absent\""), "{error}");
        std::fs::remove_file(empty).expect("removed");
    }

    #[test]
    fn some_configuration_needs_no_file() {
        assert!(trusting_nobody().is_ok());
        assert!(needed_by("ca", "etcds").to_string().contains("`etcds://`"));
    }
}
