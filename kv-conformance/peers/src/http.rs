//! The HTTP client of the peers that speak HTTP.

use kv_conformance_program::bench::Failure;

/// What reqwest does by default, TCP_NODELAY included, but no proxy: what is compared is what is sent to the server.
pub(crate) fn http() -> Result<reqwest::Client, Failure> {
    let builder = reqwest::Client::builder().no_proxy();
    let provider = rustls::crypto::ring::default_provider();
    let roots = rustls::RootCertStore::empty();
    let tls = rustls::ClientConfig::builder_with_provider(provider.into()).with_safe_default_protocol_versions()?;
    Ok(builder.tls_backend_preconfigured(tls.with_root_certificates(roots).with_no_client_auth()).build()?)
}
