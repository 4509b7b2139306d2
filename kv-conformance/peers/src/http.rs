//! The HTTP client of the peers that speak HTTP.

use kv_conformance_program::bench::Failure;

/// Reqwest's defaults, with TCP_NODELAY, but without a proxy, because requests must go to the server directly.
pub(crate) fn http() -> Result<reqwest::Client, Failure> {
    let builder = reqwest::Client::builder().no_proxy();
    let provider = rustls::crypto::ring::default_provider();
    let roots = rustls::RootCertStore::empty();
    let tls = rustls::ClientConfig::builder_with_provider(provider.into()).with_safe_default_protocol_versions()?;
    Ok(builder.tls_backend_preconfigured(tls.with_root_certificates(roots).with_no_client_auth()).build()?)
}
