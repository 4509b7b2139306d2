//! No secret is told to anybody but the server: not by this crate, nor by what it stands on, whatever happens (clause
//! A4). Every line that is logged here at all is looked through, and whatever can be shown.

#[path = "hostile/message.rs"]
mod message;
#[path = "hostile/server.rs"]
mod server;

use std::error::Error as StdError;
use std::fmt::Debug;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use kv_core::{Address, Environment, Error, Kv, Registry, Result, Value};
use server::{Mood, Server};
use tokio::net::TcpListener;
use tracing_subscriber::fmt::MakeWriter;

const USER: &str = "operator";
/// What is in every secret here: the password, and the token that the server gives for it.
const MARKER: &str = "hunter2Qx7Zk";
const PASSWORD: &str = "p@ss/hunter2Qx7Zk?#é";
const ENCODED: &str = "p%40ss%2Fhunter2Qx7Zk%3F%23%C3%A9";
const TOKEN: &str = "token.hunter2Qx7Zk.5";

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

/// A server in a thread of its own, whose logs are not looked through: it is told the secret rightly.
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

/// Gives a token that is a secret, and answers as a good server does otherwise.
fn with_secret_token() -> Mood {
    Mood::to("Authenticate", |call| async move {
        call.answer(&[message::header(1), message::text(2, TOKEN.as_bytes())].concat()).await;
    })
}

#[tokio::test]
async fn secrets_are_told_to_nobody_but_the_server() {
    let mut told = Told::default();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing_subscriber::filter::LevelFilter::TRACE);
    let subscriber = subscriber.with_ansi(false).with_writer(told.clone()).finish();
    // Of this thread, which is the client's; also what is logged in the older way.
    let _listening = tracing_subscriber::util::SubscriberInitExt::set_default(subscriber);
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
        told.show(&registry);
        told.show(environment);

        // While all is well, and as it turns bad: refused, refused as somebody else, garbage, and no answer.
        server.turn(with_secret_token());
        let kv = registry.connect(&format!("etcd://{login}{host}/root?timeout=500ms")).await.expect("a good server");
        use_it(&kv, &mut told).await;
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
            use_it(&kv, &mut told).await;
        }
        drop(kv);

        // Where there is nobody, or somebody else: also one who does not speak TLS.
        for (scheme, host) in [("etcd", &closed), ("etcds", &host), ("http", &closed), ("https", &host)] {
            let address = format!("{scheme}://{login}{host}/root?timeout=500ms");
            told.error(&registry.connect(&address).await.expect_err("no server"));
        }
    }

    // Addresses that cannot be read, most of them for the secret itself.
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
        told.error(&registry.connect(&address).await.expect_err(&address));
        if let Ok(address) = Address::parse(&address, Environment::from([])) {
            told.show(&address);
            told.show(&address.credentials);
            note(&mut told, kv_etcd::EtcdBackend::new(&address));
        }
    }
    told.show(&kv_etcd::REGISTRATION);

    // What it stands on has been heard, and something was said by every way.
    let text = told.text();
    for source in ["h2::", "hyper", "rustls", "shown: ", "said: ", "outcome"] {
        assert!(text.contains(source), "{source} has said nothing in {} bytes", text.len());
    }
    told.holds_no_secret();
}

async fn refuses(mut call: server::Call, status: u16, text: &'static str) {
    call.read().await;
    call.begin().finish(status, text);
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
    note(
        told,
        tokio::time::timeout(Duration::from_millis(100), kv.lock("lock", TTL))
            .await
            .unwrap_or_else(|_| Err(Error::unavailable("late"))),
    );
}

fn note<T: Debug>(told: &mut Told, result: Result<T>) {
    match result {
        Ok(value) => told.show(&value),
        Err(error) => told.error(&error),
    }
}

async fn closed_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    listener.local_addr().expect("an address").to_string()
}
