//! TLS: the server's certificate and the client's.

use kv_conformance_servers::{Options, Tls};
use kv_core::Error;

use crate::support::{connect, server, servers, try_connect};

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_show_certificates() {
    let cluster = servers(1, Options::default().tls(Tls::Mutual)).await;
    let kv = connect(&cluster.address()).await;
    kv.set("key", "value").await.expect("a write");
    let mut watch = kv.watch("", 0).await.expect("a watch");
    kv.set("key", "again").await.expect("a write");
    watch.next().await.expect("the watch goes on").expect("an event");

    let certificates = cluster.certificates().expect("certificates");
    let endpoint = &cluster.endpoints()[0];
    let (ca, cert) = (certificates.ca(), certificates.client_certificate());
    let (ca, cert) = (ca.display(), cert.display());
    let key = certificates.client_key();
    let key = key.display();
    let own = format!("cert={cert}&key={key}");
    let named = format!("etcds://{endpoint}?ca={ca}&{own}&server-name=localhost");
    connect(&named).await.ping().await.expect("the certificate has that name, too");

    let wrong_name = format!("etcds://{endpoint}?ca={ca}&{own}&server-name=elsewhere.example");
    let wrong_ca = format!("etcds://{endpoint}?ca={cert}&{own}");
    for address in [wrong_name, wrong_ca] {
        let error = try_connect(&address).await.expect_err(&address);
        assert!(matches!(error, Error::UnexpectedAnswer { .. }), "{address}: {error}");
        assert!(error.to_string().contains("its certificate is not accepted"), "{error}");
    }
    // The server closes the connection without an alert, just as a server that stops does.
    let error = try_connect(&format!("etcd://{endpoint}")).await.expect_err("it wants TLS");
    assert!(matches!(error, Error::Unavailable { .. } | Error::UnexpectedAnswer { .. }), "{error}");
    assert!(error.to_string().contains("`etcds://`"), "{error}");
    let error = try_connect(&format!("etcds://{endpoint}?ca={ca}")).await.expect_err("no certificate of its own");
    assert!(matches!(error, Error::PermissionDenied { .. }), "{error}");
    assert!(error.to_string().contains("`cert`"), "{error}");
    cluster.stop().await;
}

#[tokio::test]
async fn tls_on_a_plain_port_is_named_in_the_error() {
    let cluster = server().await;
    let ca = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/etcd/some-ca.pem");
    let address = format!("etcds://{}?ca={ca}", cluster.endpoints()[0]);
    let error = try_connect(&address).await.expect_err("it is plain");
    assert!(matches!(error, Error::Unavailable { .. } | Error::UnexpectedAnswer { .. }), "{error}");
    assert!(error.to_string().contains("TLS"), "{error}");
    cluster.stop().await;
}
