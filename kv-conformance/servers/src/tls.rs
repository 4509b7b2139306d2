//! Certificates of servers and clients for TLS.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;

use crate::error::{Doing, Error};

/// A certificate authority for one cluster and the certificates that it signed, as PEM files.
///
/// The files are removed when this is dropped.
#[derive(Debug)]
pub struct Certificates {
    directory: TempDir,
    ca: CertificateDer<'static>,
    client: Signed,
    server: Signed,
}

#[derive(Debug)]
struct Signed {
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    key_der: Vec<u8>,
    key_pem: String,
}

impl Certificates {
    /// Creates an authority, a server certificate for `127.0.0.1` and `localhost`, and a client certificate.
    pub(crate) fn generate() -> Result<Self, Error> {
        let directory = tempfile::Builder::new().prefix("kv-tls").tempdir().doing("cannot make a directory")?;
        let ca_key = KeyPair::generate().doing("cannot generate a key")?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "kv-conformance CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca = params.self_signed(&ca_key).doing("cannot sign a certificate")?;
        let issuer = Issuer::new(params, ca_key);
        let server = sign(&issuer, "server", &["127.0.0.1", "localhost"])?;
        let client = sign(&issuer, "client", &[])?;
        let files = [
            ("ca.pem", ca.pem()),
            ("client.pem", client.certificate_pem.clone()),
            ("client-key.pem", client.key_pem.clone()),
        ];
        for (name, content) in files {
            fs::write(directory.path().join(name), content).doing("cannot write a certificate")?;
        }
        Ok(Self { directory, ca: ca.der().clone(), client, server })
    }

    /// The authority's certificate, which a client needs to verify the server.
    pub fn ca(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// A client certificate signed by the authority.
    pub fn client_certificate(&self) -> PathBuf {
        self.directory.path().join("client.pem")
    }

    /// The private key of [`client_certificate`](Self::client_certificate).
    pub fn client_key(&self) -> PathBuf {
        self.directory.path().join("client-key.pem")
    }

    /// The directory that holds the files.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The files of a server, with their paths in the container.
    pub(crate) fn server_files(&self) -> Result<Vec<(String, Vec<u8>)>, Error> {
        let ca = fs::read(self.ca()).doing("cannot read a certificate")?;
        Ok(vec![
            (CA.to_owned(), ca),
            (SERVER_CERTIFICATE.to_owned(), self.server.certificate_pem.clone().into_bytes()),
            (SERVER_KEY.to_owned(), self.server.key_pem.clone().into_bytes()),
            (CLIENT_CERTIFICATE.to_owned(), self.client.certificate_pem.clone().into_bytes()),
            (CLIENT_KEY.to_owned(), self.client.key_pem.clone().into_bytes()),
        ])
    }

    /// A client configuration that trusts the authority and presents the client certificate.
    pub(crate) fn client_config(&self) -> Result<ClientConfig, Error> {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.clone()).doing("cannot trust a certificate")?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.client.key_der.clone()));
        with_ring()?
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![self.client.certificate.clone()], key)
            .doing("cannot use a client certificate")
    }
}

/// Paths in a member's container.
pub(crate) const CA: &str = "/kv/ca.pem";
pub(crate) const SERVER_CERTIFICATE: &str = "/kv/server.pem";
pub(crate) const SERVER_KEY: &str = "/kv/server-key.pem";
/// For the command-line tools in a member's container.
pub(crate) const CLIENT_CERTIFICATE: &str = "/kv/client.pem";
pub(crate) const CLIENT_KEY: &str = "/kv/client-key.pem";

/// A client configuration that trusts no authority, for servers that speak plain HTTP.
pub(crate) fn no_tls() -> Result<ClientConfig, Error> {
    Ok(with_ring()?.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

/// Names the provider explicitly: the process-wide default belongs to the program, not to a library.
fn with_ring() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, Error> {
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .doing("cannot set up TLS")
}

fn sign(issuer: &Issuer<'_, KeyPair>, name: &str, hosts: &[&str]) -> Result<Signed, Error> {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let key = KeyPair::generate().doing("cannot generate a key")?;
    let mut params = CertificateParams::new(hosts).doing("cannot name a certificate")?;
    // No common name: etcd takes a client's common name as its user, and etcd's gateway refuses a client that has one.
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // etcd's gateway calls etcd as a client with the server's certificate.
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&key, issuer).doing("cannot sign a certificate")?;
    Ok(Signed {
        certificate: certificate.der().clone(),
        certificate_pem: certificate.pem(),
        key_der: key.serialize_der(),
        key_pem: key.serialize_pem(),
    })
}
