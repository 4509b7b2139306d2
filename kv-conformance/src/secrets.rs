//! Checks that a secret is sent to the server only (clause [A4](kv_core::contract::CLAUSES#A4)).
//!
//! A [`Capture`] records every line that is logged on its thread, also by the backend's dependencies, and everything
//! that it is shown. A test uses its backend with a secret, in success and in failure, and then searches the record:
//!
//! ```
//! # let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
//! # runtime.block_on(async {
//! use kv_conformance::secrets::Capture;
//! use kv_core::{Environment, Registry};
//!
//! const PASSWORD: &str = "hunter2Qx7Zk";
//!
//! let capture = Capture::start();
//! let registry = Registry::new().with_environment(Environment::from([("STORE_PASSWORD", PASSWORD)]));
//! capture.show(&registry);
//! capture.result(&registry.connect("mine://operator:hunter2Qx7Zk@localhost/?token=hunter2Qx7Zk").await);
//! capture.assert_heard(&["shown: ", "said: "]);
//! capture.assert_holds_none_of(&[PASSWORD]);
//! # });
//! ```
//!
//! Other threads are not recorded: a server of the test may log the secret there, because it receives the secret.

use std::collections::BTreeSet;
use std::error::Error as StdError;
use std::fmt::{self, Debug};
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use kv_core::{Error, Kv, Result, Value};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

/// A record of everything logged on a thread, or shown, from [`start`](Capture::start) until it is dropped.
pub struct Capture {
    record: Record,
    _listening: tracing::subscriber::DefaultGuard,
}

/// Shows how much it holds, not what.
impl Debug for Capture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Capture").field("bytes", &self.record.bytes().len()).finish_non_exhaustive()
    }
}

impl Capture {
    /// Starts to record what is logged on this thread, at every level, through `tracing` or `log`.
    ///
    /// An asynchronous test must run on a single thread, as with `#[tokio::test]`; tasks on other threads are not
    /// recorded.
    #[must_use]
    pub fn start() -> Self {
        let record = Record::default();
        let writer = record.clone();
        let lines = tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE).with_ansi(false);
        Self { record, _listening: lines.with_writer(move || writer.clone()).set_default() }
    }

    /// Records both forms of `Debug`.
    pub fn show(&self, what: &dyn Debug) {
        self.record.line(format_args!("shown: {what:?} {what:#?}"));
    }

    /// Records all forms of an error and of its sources.
    pub fn error(&self, error: &Error) {
        self.show(error);
        let mut below: Option<&dyn StdError> = Some(error);
        while let Some(error) = below {
            self.record.line(format_args!("said: {error} {error:#} {error:?}"));
            below = error.source();
        }
    }

    /// Records the result of a call.
    pub fn result<T: Debug>(&self, result: &Result<T>) {
        match result {
            Ok(value) => self.show(value),
            Err(error) => self.error(error),
        }
    }

    /// Makes every kind of call and records the results.
    ///
    /// The calls may fail. They write the keys `key`, `a`, `b` and `lock` below the handle's root.
    pub async fn every_call(&self, kv: &Kv) {
        const TTL: Duration = Duration::from_secs(10);
        self.show(kv);
        self.show(&kv.txn());
        self.result(&kv.ping().await);
        self.result(&kv.get("key").await);
        self.result(&kv.get_all("").await);
        self.result(&kv.keys("").await);
        self.result(&kv.set("key", "value").await);
        self.result(&kv.update("key", Value::new("value", 1)).await);
        self.result(&kv.remove("key", 1).await);
        self.result(&kv.delete("key").await);
        self.result(&kv.delete_tree("a").await);
        self.result(&kv.txn().set("a", "1").delete("b").commit().await);
        self.result(&kv.watch("", 0).await);
        self.result(&kv.observe("").await);
        self.result(&kv.ephemeral_key("key", TTL).await);
        self.result(&kv.try_lock("lock", TTL).await);
        // It waits while the lock is held by another client, or the store is not reachable.
        if let Ok(lock) = tokio::time::timeout(Duration::from_millis(100), kv.lock("lock", TTL)).await {
            self.result(&lock);
        }
    }

    /// Requires that each of these texts was recorded, such as the names of crates that must have logged something.
    /// Without it an empty record would pass.
    ///
    /// # Panics
    /// If one was not recorded.
    #[track_caller]
    pub fn assert_heard(&self, sources: &[&str]) {
        let text = self.record.text();
        for source in sources {
            assert!(text.contains(source), "{source} has logged nothing in {} bytes", text.len());
        }
    }

    /// Requires that no secret was recorded in any of these forms: verbatim, escaped, percent-encoded, as hexadecimal
    /// or decimal bytes, or in base64, alone or within a longer text such as the login of HTTP's basic authentication.
    ///
    /// Choose secrets of at least eight bytes that occur nowhere else; shorter ones may match by chance.
    ///
    /// # Panics
    /// If one was recorded, with the line that contains it.
    #[track_caller]
    pub fn assert_holds_none_of(&self, secrets: &[&str]) {
        let text = self.record.text();
        for secret in secrets {
            if let Some(line) = revealing(&text, secret) {
                panic!("{secret:?} was revealed: {line}");
            }
        }
    }
}

/// The record, shared with the subscriber.
#[derive(Clone, Default)]
struct Record(Arc<Mutex<Vec<u8>>>);

impl Record {
    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    fn line(&self, line: fmt::Arguments<'_>) {
        // Formatted before locking: `Debug` may log something.
        let line = format!("{line}\n");
        self.bytes().extend_from_slice(line.as_bytes());
    }
}

impl Write for Record {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns the first line that contains a secret in some form.
fn revealing<'a>(text: &'a str, secret: &str) -> Option<&'a str> {
    let forms = forms(secret);
    text.lines().find(|line| forms.iter().any(|form| line.contains(form)))
}

/// All forms of a secret in a text.
fn forms(secret: &str) -> BTreeSet<String> {
    let bytes = secret.as_bytes();
    let list = |bytes: String| bytes.trim_matches(['[', ']']).to_owned();
    let lower = list(format!("{bytes:02x?}").replace(", ", ""));
    let mut forms = BTreeSet::from([
        secret.to_owned(),
        secret.escape_debug().to_string(),
        bytes.escape_ascii().to_string(),
        utf8_percent_encode(secret, NON_ALPHANUMERIC).to_string(),
        lower.to_uppercase(),
        lower,
        list(format!("{bytes:?}")),
        list(format!("{bytes:02x?}")),
    ]);
    for before in 0..3 {
        forms.extend([&STANDARD_NO_PAD, &URL_SAFE_NO_PAD].map(|engine| {
            let text = engine.encode([&b"\0\0"[..before], bytes].concat());
            // A character at either end may also hold bits of the neighbouring bytes.
            let (first, beside) = ((before * 8).div_ceil(6), usize::from(!(before + bytes.len()).is_multiple_of(3)));
            text[first..text.len() - beside].to_owned()
        }));
    }
    forms
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "p@ss/\"hunter2\"é~~~";

    #[test]
    fn a_secret_is_found_in_every_form() {
        let bytes = SECRET.as_bytes();
        let forms = [
            SECRET.to_owned(),
            format!("{SECRET:?}"),
            format!("{:?}", bytes::Bytes::from_static(bytes)),
            "p%40ss%2F%22hunter2%22%C3%A9%7E%7E%7E".to_owned(),
            format!("{bytes:?}"),
            format!("{bytes:x?}"),
            format!("{:X}", bytes::Bytes::from_static(bytes)),
        ];
        for form in forms {
            let text = format!("a line\nanother {form} with it\nand one more");
            assert_eq!(revealing(&text, SECRET), text.lines().nth(1), "{form}");
        }
        for beside in ["", "a", "ab", "abc"] {
            for after in ["", "y", "yz", "xyz"] {
                for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
                    let form = engine.encode(format!("{beside}{SECRET}{after}"));
                    assert!(revealing(&form, SECRET).is_some(), "{beside:?} {after:?} {form}");
                }
            }
        }
        assert_eq!(revealing("p@ss\nhunter2\n", SECRET), None);
    }

    #[test]
    fn everything_on_one_thread_is_recorded() {
        let capture = Capture::start();
        tracing::trace!(target: "anything", password = "of this thread");
        let other = std::thread::spawn(|| tracing::error!("of another thread"));
        other.join().expect("no panic");
        capture.show(&"what is shown");
        capture.error(&Error::unavailable("what failed").with_source(io::Error::other("what is below")));
        capture.assert_heard(&["of this thread", "what is shown", "what failed", "what is below"]);
        capture.assert_holds_none_of(&["of another thread"]);
    }

    #[test]
    #[should_panic(expected = "\"hunter2\" was revealed: shown: \"operator:hunter2\"")]
    fn the_line_with_the_secret_is_shown() {
        let capture = Capture::start();
        capture.show(&"operator:hunter2");
        capture.assert_holds_none_of(&["hunter2"]);
    }

    #[test]
    #[should_panic(expected = "rustls has logged nothing")]
    fn an_empty_record_fails() {
        Capture::start().assert_heard(&["rustls"]);
    }
}
