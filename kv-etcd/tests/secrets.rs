//! Only the server receives secrets: neither this crate nor its dependencies show them, whatever happens
//! ([clause A4](kv_core::contract::CLAUSES#A4)). The test searches every line that is logged, every error and every
//! `Debug`.

#[path = "hostile/message.rs"]
mod message;
#[path = "hostile/server.rs"]
mod server;

use kv_conformance::secrets::Capture;
use kv_core::backend::Address;
use kv_core::{Environment, Registry};
use server::{Mood, Server};
use tokio::net::TcpListener;

const USER: &str = "operator";
/// A part of each secret: of the password, and of the token that the server issues for it.
const MARKER: &str = "hunter2Qx7Zk";
const PASSWORD: &str = "p@ss/hunter2Qx7Zk?#é";
const ENCODED: &str = "p%40ss%2Fhunter2Qx7Zk%3F%23%C3%A9";
const TOKEN: &str = "token.hunter2Qx7Zk.5";

/// A server in a thread of its own. Its logs are not searched, because it has the secret legitimately.
fn server() -> Server {
    let (send, started) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let _ = send.send(Server::start().await);
            std::future::pending::<()>().await;
        });
    });
    started.recv().expect("a server")
}

/// Issues a secret token, and otherwise answers as a good server.
fn with_secret_token() -> Mood {
    Mood::to("Authenticate", |call| async move {
        call.answer(&[message::header(1), message::text(2, TOKEN.as_bytes())].concat()).await;
    })
}

#[tokio::test]
async fn only_the_server_receives_secrets() {
    let capture = Capture::start();
    let server = server();
    server.turn(with_secret_token());
    let (host, closed) = (server.address.to_string(), closed_port().await);

    let environments = [
        Environment::from([]),
        Environment::from([("ETCDCTL_USER", &*format!("{USER}:{PASSWORD}"))]),
        Environment::from([("ETCDCTL_USER", USER), ("ETCDCTL_PASSWORD", PASSWORD)]),
    ];
    for (number, environment) in environments.iter().enumerate() {
        let login = if number == 0 { format!("{USER}:{ENCODED}@") } else { String::new() };
        let registry = Registry::new().with(kv_etcd::REGISTRATION).with_environment(environment.clone());
        capture.show(&registry);
        capture.show(environment);

        // A good server, then a login that is refused, a token that is refused, garbage, and no answer.
        server.turn(with_secret_token());
        let kv = registry.connect(&format!("etcd://{login}{host}/root?timeout=500ms")).await.expect("a good server");
        capture.every_call(&kv).await;
        for mood in [
            Mood::to_each_call(|call| {
                refuses(call, 3, "etcdserver: authentication failed, invalid user ID or password")
            }),
            Mood::to_each_call(|call| refuses(call, 16, "etcdserver: invalid auth token")),
            Mood::to_each_call(|call| refuses(call, 7, "etcdserver: permission denied")),
            Mood::to_each_call(|call| async move { call.answer(&[0xff; 100]).await }),
            Mood::to_each_call(|_| std::future::pending()),
            Mood::to_each_connection(|_, _| async {}),
        ] {
            server.turn(mood);
            capture.every_call(&kv).await;
        }
        drop(kv);

        // A closed port, and a server of another kind, with and without TLS.
        for (scheme, host) in [("etcd", &closed), ("etcds", &host), ("http", &closed), ("https", &host)] {
            let address = format!("{scheme}://{login}{host}/root?timeout=500ms");
            capture.error(&registry.connect(&address).await.expect_err("no server"));
        }
    }

    // Invalid addresses. In most of them the secret is the invalid part.
    let registry = Registry::new().with(kv_etcd::REGISTRATION).with_environment(Environment::from([]));
    for address in [
        format!("etcd://{USER}:{PASSWORD}@{host}"),
        format!("etcd://{USER}:{MARKER}@{MARKER}@{host}:x"),
        format!("etcd://{USER}:{MARKER}%zz@{host}"),
        format!("etcd://{USER}:{MARKER}%ff@{host}"),
        format!("etcd://{USER}:{MARKER}/{host}"),
        format!("etcd://{USER}:a?{MARKER}@{host}"),
        format!("etcd://{USER}:a#{MARKER}@{host}"),
        format!("etcd://{USER}:a,{MARKER}@{host}"),
        format!("etcd://{MARKER}:{host}"),
        format!("{USER}:{MARKER}@{host}"),
        format!("unknown://{USER}:{MARKER}@{host}"),
        format!("etcd://{USER}:{MARKER}@{host}?timeout={MARKER}"),
        format!("etcd://{USER}:{MARKER}@{host}?consistency={MARKER}"),
        format!("etcd://{USER}:{MARKER}@{host}?unknown={MARKER}"),
        format!("etcd://{USER}:{MARKER}@{host}?ca={MARKER}%00"),
        format!("etcds://{USER}:{MARKER}@{host}?cert=/nowhere"),
    ] {
        capture.error(&registry.connect(&address).await.expect_err(&address));
        if let Ok(address) = Address::parse(&address, Environment::from([])) {
            capture.show(&address);
            capture.show(&address.credentials);
            capture.result(&(kv_etcd::REGISTRATION.connect)(address).await.map(drop));
        }
    }
    capture.show(&kv_etcd::REGISTRATION);

    // The dependencies have logged, and each kind of output was searched.
    capture.assert_heard(&["h2::", "rustls", "shown: ", "said: ", "outcome"]);
    capture.assert_holds_none_of(&[MARKER]);
}

async fn refuses(mut call: server::Call, status: u16, text: &'static str) {
    call.read().await;
    call.begin().finish(status, text);
}

async fn closed_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    listener.local_addr().expect("an address").to_string()
}
