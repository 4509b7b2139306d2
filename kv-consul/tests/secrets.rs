//! Secrets are sent to the server only (clause A4): neither this crate nor its dependencies show them, whatever
//! happens. The test searches every log line, and everything that can be printed.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use kv_conformance::secrets::Capture;
use kv_core::backend::Address;
use kv_core::{Environment, Registry};

const USER: &str = "operator";
/// A text that every secret here contains.
const MARKER: &str = "hunter2Qx7Zk";
const PASSWORD: &str = "p@ss/hunter2Qx7Zk?#!";
const ENCODED: &str = "p%40ss%2Fhunter2Qx7Zk%3F%23%21";
const TOKEN: &str = "5f0f1e6c-hunter2Qx7Zk";

/// The server's answer to each request: that of an empty Consul, this text, or none if the text is empty.
type Says = Arc<Mutex<Option<String>>>;

/// A server in threads of its own. Their logs are not searched, because the server receives the secrets.
fn server() -> (String, Says) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address").to_string();
    let says = Says::default();
    let shared = says.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let says = shared.clone();
            std::thread::spawn(move || serve(stream, &says));
        }
    });
    (address, says)
}

fn serve(mut stream: TcpStream, says: &Says) {
    let mut request = vec![0; 64 << 10];
    while let Ok(length @ 1..) = stream.read(&mut request) {
        let head = String::from_utf8_lossy(&request[..length]).into_owned();
        assert!(head.contains("x-consul-token") || !head.contains("HTTP/1.1"), "the token is not sent: {head}");
        let answer = match &*says.lock().expect("no panic") {
            Some(said) if said.is_empty() => return,
            Some(said) => said.clone(),
            None if head.contains("/v1/txn") => answer("200 OK", r#"{"Results":[{"KV":{"ModifyIndex":9}}]}"#),
            None if head.contains("/session/create") => answer("200 OK", r#"{"ID":"00000000-0000"}"#),
            None if head.contains("/session/") => answer("200 OK", "true"),
            None => answer("404 Not Found", ""),
        };
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nX-Consul-Index: 7\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn only_the_server_receives_secrets() {
    let capture = Capture::start();
    let (host, says) = server();
    let closed = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("an address").to_string();
    let file = std::env::temp_dir().join(format!("kv-consul-secret-{}", std::process::id()));
    std::fs::write(&file, format!("{TOKEN}\n")).expect("a file");
    let login = format!("{USER}:{PASSWORD}");

    let environments = [
        Environment::from([]),
        Environment::from([("CONSUL_HTTP_TOKEN", TOKEN), ("CONSUL_HTTP_AUTH", &login)]),
        Environment::from([("CONSUL_HTTP_TOKEN_FILE", file.to_str().expect("a path")), ("CONSUL_HTTP_AUTH", &login)]),
    ];
    for (number, environment) in environments.iter().enumerate() {
        let (login, token) = match number {
            0 => (format!("{USER}:{ENCODED}@"), format!("&token={TOKEN}")),
            _ => (String::new(), String::new()),
        };
        let registry = Registry::new().with(kv_consul::REGISTRATION).with_environment(environment.clone());
        capture.show(&registry);
        capture.show(environment);

        // First without a fault, and then with several: refusals, a redirect, garbage, and no answer.
        *says.lock().expect("no panic") = None;
        let address = format!("consul://{login}{host}/root?timeout=500ms{token}");
        let kv = registry.connect(&address).await.expect("a good server");
        capture.every_call(&kv).await;
        for said in [
            answer("403 Forbidden", "ACL not found"),
            answer("403 Forbidden", "Permission denied"),
            answer("401 Unauthorized", ""),
            answer("500 Internal Server Error", "No cluster leader"),
            answer("302 Found\r\nLocation: http://elsewhere.example/", ""),
            answer("200 OK", "<html>"),
            "SSH-2.0-OpenSSH_9.2\r\n\r\n".to_owned(),
            String::new(),
        ] {
            *says.lock().expect("no panic") = Some(said);
            capture.every_call(&kv).await;
        }
        drop(kv);

        // A closed port, and a server that does not use TLS.
        for (scheme, host) in [("consul", &closed), ("consuls", &host), ("http", &closed), ("https", &host)] {
            let address = format!("{scheme}://{login}{host}/root?timeout=500ms{token}");
            capture.error(&registry.connect(&address).await.expect_err("no server"));
        }
    }
    std::fs::remove_file(file).expect("the file is there");

    // Invalid addresses, most of them because of the secret itself.
    let environments = [
        Environment::from([]),
        Environment::from([("CONSUL_HTTP_TOKEN", &*format!("{MARKER}\n"))]),
        Environment::from([("CONSUL_HTTP_TOKEN_FILE", "/nowhere")]),
        Environment::from([("CONSUL_HTTP_ADDR", &*format!("http://{USER}:{MARKER}@{host}"))]),
        Environment::from([("CONSUL_HTTP_AUTH", MARKER)]),
    ];
    for environment in environments {
        let registry = Registry::new().with(kv_consul::REGISTRATION).with_environment(environment.clone());
        for address in [
            format!("consul://{USER}:{PASSWORD}@{host}"),
            format!("consul://{USER}:{MARKER}%zz@{host}"),
            format!("consul://{USER}:{MARKER}/{host}"),
            format!("consul://{MARKER}:{host}"),
            format!("unknown://{USER}:{MARKER}@{host}"),
            format!("consul://{closed}?token={MARKER}%0a"),
            format!("consul://{closed}?token={MARKER}&token={MARKER}"),
            format!("consul://{closed}?token={MARKER}&timeout={MARKER}"),
            format!("consul://{closed}?token={MARKER}&lock-delay={MARKER}"),
            format!("consul://{closed}?token={MARKER}&consistency={MARKER}"),
            format!("consul://{closed}?token={MARKER}&unknown={MARKER}"),
            format!("consul://{closed}//root?token={MARKER}"),
            format!("consuls://{closed}?token={MARKER}&cert=/nowhere"),
            "consul://".to_owned(),
        ] {
            if let Err(error) = registry.connect(&address).await {
                capture.error(&error);
            }
            if let Ok(address) = Address::parse(&address, environment.clone()) {
                capture.show(&address);
                capture.show(&address.credentials);
            }
        }
    }
    capture.show(&kv_consul::REGISTRATION);

    // The dependencies have logged something, and there was output of every kind.
    capture.assert_heard(&["hyper", "reqwest", "rustls", "shown: ", "said: ", "outcome"]);
    capture.assert_holds_none_of(&[MARKER]);
}
