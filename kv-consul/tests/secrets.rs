//! No secret is told to anybody but the server: not by this crate, nor by what it stands on, whatever happens (clause
//! A4). Every line that is logged here at all is looked through, and whatever can be shown.

use std::error::Error as StdError;
use std::fmt::Debug;
use std::io::{self, Read as _, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use kv_core::{Address, Environment, Error, Kv, Registry, Result, Value};
use tracing_subscriber::fmt::MakeWriter;

const USER: &str = "operator";
/// What is in every secret here.
const MARKER: &str = "hunter2Qx7Zk";
const PASSWORD: &str = "p@ss/hunter2Qx7Zk?#!";
const ENCODED: &str = "p%40ss%2Fhunter2Qx7Zk%3F%23%21";
const TOKEN: &str = "5f0f1e6c-hunter2Qx7Zk";

/// Everything that was logged or shown.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<u8>>>);

impl Write for Told {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Told {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Told {
    /// Whatever a caller may print of it.
    fn show(&mut self, what: &dyn Debug) {
        writeln!(self, "shown: {what:?} {what:#?}").expect("memory");
    }

    /// An error with everything below it.
    fn error(&mut self, error: &Error) {
        self.show(error);
        let mut below: Option<&dyn StdError> = Some(error);
        while let Some(error) = below {
            writeln!(self, "said: {error} {error:#} {error:?}").expect("memory");
            below = error.source();
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("no panic")).into_owned()
    }

    /// Fails if it holds a secret in any form that it may take on its way.
    fn holds_no_secret(&self) {
        let text = self.text();
        let login = format!("{USER}:{PASSWORD}");
        let bytes = format!("{:?}", MARKER.as_bytes());
        let hex = format!("{:02x?}", MARKER.as_bytes()).replace(", ", "");
        let mut forms =
            vec![MARKER.to_owned(), hex.trim_matches(['[', ']']).to_owned(), bytes.trim_matches(['[', ']']).to_owned()];
        for secret in [MARKER, PASSWORD, TOKEN, &login] {
            forms.extend([STANDARD_NO_PAD.encode(secret), URL_SAFE_NO_PAD.encode(secret)]);
        }
        for form in forms {
            if let Some(at) = text.find(&form) {
                let start = text[..at].rfind('\n').map_or(0, |line| line + 1);
                let end = text[at..].find('\n').map_or(text.len(), |line| at + line);
                panic!("{form} is told: {}", &text[start..end]);
            }
        }
    }
}

/// What a server says to each request: as a Consul with nothing in it, or this, or nothing at all.
type Says = Arc<Mutex<Option<String>>>;

/// A server in threads of its own, whose logs are not looked through: it is told the secrets rightly.
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
async fn secrets_are_told_to_nobody_but_the_server() {
    let mut told = Told::default();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing_subscriber::filter::LevelFilter::TRACE);
    let subscriber = subscriber.with_ansi(false).with_writer(told.clone()).finish();
    // Of this thread, which is the client's; also what is logged in the older way.
    let _listening = tracing_subscriber::util::SubscriberInitExt::set_default(subscriber);
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
        told.show(&registry);
        told.show(environment);

        // While all is well, and as it turns bad: refused in several ways, sent elsewhere, garbage, and no answer.
        *says.lock().expect("no panic") = None;
        let address = format!("consul://{login}{host}/root?timeout=500ms{token}");
        let kv = registry.connect(&address).await.expect("a good server");
        use_it(&kv, &mut told).await;
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
            use_it(&kv, &mut told).await;
        }
        drop(kv);

        // Where there is nobody, or somebody else: also one who does not speak TLS.
        for (scheme, host) in [("consul", &closed), ("consuls", &host), ("http", &closed), ("https", &host)] {
            let address = format!("{scheme}://{login}{host}/root?timeout=500ms{token}");
            told.error(&registry.connect(&address).await.expect_err("no server"));
        }
    }
    std::fs::remove_file(file).expect("the file is there");

    // Addresses that cannot be read, most of them for the secret itself.
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
                told.error(&error);
            }
            if let Ok(address) = Address::parse(&address, environment.clone()) {
                told.show(&address);
                told.show(&address.credentials);
            }
        }
    }
    told.show(&kv_consul::REGISTRATION);

    // What it stands on has been heard, and something was said by every way.
    let text = told.text();
    for source in ["hyper", "reqwest", "rustls", "shown: ", "said: ", "outcome"] {
        assert!(text.contains(source), "{source} has said nothing in {} bytes", text.len());
    }
    told.holds_no_secret();
}

/// Makes every kind of call, and shows whatever comes of it.
async fn use_it(kv: &Kv, told: &mut Told) {
    const TTL: Duration = Duration::from_secs(10);
    told.show(kv);
    told.show(&kv.txn());
    note(told, kv.ping().await);
    note(told, kv.get("key").await);
    note(told, kv.get_all("").await);
    note(told, kv.keys("").await);
    note(told, kv.set("key", "value").await);
    note(told, kv.update("key", Value::new("value", 1)).await);
    note(told, kv.delete("key").await);
    note(told, kv.txn().set("a", "1").delete("b").commit().await);
    note(told, kv.watch("", 0).await);
    note(told, kv.observe("").await);
    note(told, kv.ephemeral_key("key", TTL).await);
    note(told, kv.try_lock("lock", TTL).await);
    let late = |_| Err(Error::unavailable("late"));
    note(told, tokio::time::timeout(Duration::from_millis(100), kv.lock("lock", TTL)).await.unwrap_or_else(late));
}

fn note<T: Debug>(told: &mut Told, result: Result<T>) {
    match result {
        Ok(value) => told.show(&value),
        Err(error) => told.error(&error),
    }
}
