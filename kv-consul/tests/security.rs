//! Tokens and certificates, and the errors about them. Needs Docker.

mod support;

use std::time::Duration;

use kv_conformance_servers::{Access, Credential, Options, Tls};
use kv_core::{Environment, Error, Kv, Registry};
use support::{connect, registry, start};

const LONG: Duration = Duration::from_secs(300);

async fn refused(address: &str) -> Error {
    match registry().connect(address).await {
        Ok(_) => panic!("the address was accepted"),
        Err(error) => error,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_may_read_only() {
    let cluster = start(Options::default().access_control()).await;
    let admin = connect(&cluster.address_as(cluster.admin().expect("a token that may do everything"))).await;
    let index = admin.set("app/key", "1").await.expect("a write");
    let credential = cluster.grant("app/", Access::Read).await.expect("a token");
    let reader = connect(&cluster.address_as(&credential)).await;
    assert_eq!(reader.get("app/key").await.expect("a read").index, index);
    assert_eq!(reader.get_all("app/").await.expect("a listing").values.len(), 1);
    assert_eq!(reader.keys("app").await.expect("a directory"), ["app/key"]);

    let check = reader.txn().check("app/key", index).commit().await;
    assert!(check.is_ok(), "{check:?}");
    for (what, result) in [
        ("set", reader.set("app/key", "2").await.map(drop)),
        ("create", reader.set("app/new", "2").await.map(drop)),
        ("delete", reader.delete("app/key").await),
        ("delete_tree", reader.delete_tree("app").await),
        ("ephemeral_key", reader.ephemeral_key("app/member", LONG).await.map(drop)),
        ("lock", reader.lock("app/lock", LONG).await.map(drop)),
        ("try_lock", reader.try_lock("app/lock", LONG).await.map(drop)),
        ("get elsewhere", reader.get("other").await.map(drop)),
    ] {
        assert!(matches!(result, Err(Error::PermissionDenied { .. })), "{what}: {result:?}");
    }
    assert_eq!(admin.get_all("").await.expect("a listing").values.len(), 1);
    assert_eq!(admin.get("app/key").await.expect("the old value").index, index);

    let credential = cluster.grant("app/", Access::Write).await.expect("a token");
    let writer = connect(&cluster.address_as(&credential)).await;
    writer.lock("app/lock", LONG).await.expect("the lock").unlock().await.expect("unlocked");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_token() {
    let cluster = start(Options::default().access_control()).await;
    let secret = "5f0f1e6c-aaaa-bbbb-cccc-0123456789ab";
    let error = refused(&cluster.address_as(&Credential::Token(secret.to_owned()))).await;
    assert!(matches!(error, Error::PermissionDenied { .. }), "{error:?}");
    assert!(!format!("{error} {error:?}").contains(secret), "{error:?}");

    // From the environment, by value and by file.
    let Some(Credential::Token(token)) = cluster.admin() else { panic!("no token") };
    let file = std::env::temp_dir().join(format!("kv-consul-token-{}", std::process::id()));
    std::fs::write(&file, format!("{token}\n")).expect("a file");
    let path = file.to_str().expect("a path");
    for variable in [("CONSUL_HTTP_TOKEN", token.as_str()), ("CONSUL_HTTP_TOKEN_FILE", path)] {
        let registry = registry().with_environment(Environment::from([variable]));
        let kv = registry.connect(&cluster.address()).await.expect("a Consul that serves");
        kv.set("key", variable.0).await.expect("a write");
        assert!(!format!("{kv:?}").contains(token));
    }
    std::fs::remove_file(file).expect("the file is there");
    cluster.stop().await;
}

async fn works(registry: Registry, address: &str) {
    let kv: Kv = registry.connect(address).await.unwrap_or_else(|error| panic!("{address}: {error}"));
    kv.set("key", "1").await.expect("a write");
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_checked() {
    let (cluster, stranger) =
        tokio::join!(start(Options::default().tls(Tls::Server)), start(Options::default().tls(Tls::Server)));
    let endpoint = cluster.endpoints().swap_remove(0);
    let port = endpoint.rsplit_once(':').expect("a port").1;
    let ca = cluster.certificates().expect("certificates").ca();
    let ca = ca.to_str().expect("a path");
    let other = stranger.certificates().expect("certificates").ca();
    let other = other.to_str().expect("a path");

    works(registry(), &format!("consuls://{endpoint}?ca={ca}")).await;
    works(registry(), &format!("https://{endpoint}?ca={ca}")).await;
    works(registry(), &format!("consuls://localhost:{port}?ca={ca}")).await;
    works(registry(), &format!("consuls://{endpoint}?ca={ca}&server-name=localhost")).await;
    let environment = Environment::from([
        ("CONSUL_HTTP_ADDR", endpoint.as_str()),
        ("CONSUL_HTTP_SSL", "true"),
        ("CONSUL_CACERT", ca),
        ("CONSUL_TLS_SERVER_NAME", "localhost"),
    ]);
    works(registry().with_environment(environment), "consul://").await;

    for (address, says) in [
        // No authority of the system signed the certificate.
        (format!("consuls://{endpoint}"), "certificate"),
        (format!("consuls://{endpoint}?ca={other}"), "certificate"),
        (format!("consuls://{endpoint}?ca={ca}&server-name=other.example"), "certificate"),
    ] {
        let error = refused(&address).await;
        assert!(matches!(error, Error::UnexpectedAnswer { .. }), "{address}: {error:?}");
        assert!(error.to_string().contains(says) && error.to_string().contains(&endpoint), "{address}: {error}");
    }
    // Plain text to a TLS port.
    let error = refused(&format!("consul://{endpoint}")).await;
    assert!(matches!(error, Error::UnexpectedAnswer { .. }), "{error:?}");
    assert!(error.to_string().contains("consuls://"), "{error}");
    let error = refused(&format!("consuls://{endpoint}?ca=/nowhere.pem")).await;
    assert!(matches!(error, Error::InvalidAddress { .. }), "{error:?}");
    cluster.stop().await;
    stranger.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_can_ask_for_a_client_certificate() {
    let cluster = start(Options::default().tls(Tls::Mutual)).await;
    let endpoint = cluster.endpoints().swap_remove(0);
    let certificates = cluster.certificates().expect("certificates");
    let (ca, cert, key) = (certificates.ca(), certificates.client_certificate(), certificates.client_key());
    let [ca, cert, key] = [&ca, &cert, &key].map(|path| path.to_str().expect("a path"));

    works(registry(), &format!("consuls://{endpoint}?ca={ca}&cert={cert}&key={key}")).await;
    let environment =
        Environment::from([("CONSUL_CACERT", ca), ("CONSUL_CLIENT_CERT", cert), ("CONSUL_CLIENT_KEY", key)]);
    works(registry().with_environment(environment), &format!("consuls://{endpoint}")).await;

    let error = refused(&format!("consuls://{endpoint}?ca={ca}")).await;
    assert!(matches!(error, Error::PermissionDenied { .. }), "{error:?}");
    assert!(error.to_string().contains("`cert` and `key`"), "{error}");
    for half in [format!("cert={cert}"), format!("key={key}"), format!("cert={key}&key={cert}")] {
        let error = refused(&format!("consuls://{endpoint}?ca={ca}&{half}")).await;
        assert!(matches!(error, Error::InvalidAddress { .. }), "{half}: {error:?}");
    }
    cluster.stop().await;
}
