//! Observability: the names of the `tracing` spans and events, the same for every backend.
//!
//! A `tracing` subscriber receives them. Without one they cost next to nothing, and no metrics library is required. To
//! count or time operations, derive a metric from the span: its name and fields are stable. No span and no event holds
//! a value or a secret ([clause A4](crate::contract::CLAUSES#A4)).
//!
//! ```
//! // Everything that may need an operator, as lines on standard output:
//! tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).init();
//! ```
//!
//! # The span of a call
//! Every call of a [`Kv`](crate::Kv), a lock or an ephemeral key is a span `kv` at debug level, target `kv_core`:
//!
//! | field | |
//! |---|---|
//! | `operation` | the verb: `ping`, `get`, `get_all`, `keys`, `set`, `update`, `delete`, `delete_tree`, `remove`, `txn`, `watch`, `observe`, `ephemeral_key`, `lock`, `try_lock`, `renew`, `destroy`, `unlock`, `close`, or `release` for a handle that was dropped or closed |
//! | `backend` | `memory`, `etcd`, `consul`, … |
//! | `key` | the key, prefix or directory, without the root; empty for `ping` and `txn` |
//! | `outcome` | once it is done: `ok`, or the variant of [`Error`], such as `not_found`, `conflict`, `lost`, `indeterminate` |
//! | `attempt` | the number of the last attempt, if the first was not the only one |
//!
//! A span that closes without an `outcome` is a call that was dropped. A call that is refused before anything is sent,
//! because of an invalid key for example, has no span.
//!
//! # Events
//! The message of an event is its name and never varies; its fields do. All events have the target `kv_core` and a
//! field `backend`, of their own or of their span.
//!
//! | level | message | fields | when |
//! |---|---|---|---|
//! | debug | `done` | `outcome` | a call is over |
//! | debug | `attempt failed` | `attempt`, `endpoint`, `error` | one attempt of a call failed, and another is made, at the same endpoint or the next |
//! | warn, then debug | `reconnecting` | `what`, `attempt`, `error` | a connection, or what lives on one (`watch`, `lock` for a wait), broke and is brought back; only the first attempt is a warning |
//! | info | `reconnected` | `what`, `attempt` | it is back, after this many attempts |
//! | info | `waiting for a lock` | | a `lock` has waited for a second, once for each call |
//! | warn, then debug | `lease not renewed` | `key`, `error` | a lock or ephemeral key could not be renewed by `hold`, which tries again while the lease may stand; only the first failure in a row is a warning |
//! | info | `lease renewed again` | `key`, `attempt` | it was renewed after this many failures |
//! | warn | `lease lost` | `key` | a handle found that its lock or ephemeral key is not its own any more, once for each handle; or the store refused a transaction for it |
//! | warn | `lease left to lapse` | `key`, `error` | a dropped handle could not be released; its time to live frees the key |
//! | warn | `foreign keys left out` | `count`, `key` | keys that are not UTF-8, which no listing or watch can show: how many a listing met, or came at once for a watch, and the first of them, its bytes escaped |
//!
//! A backend's crate may emit other debug events under its own target. They may change at any time.
//!
//! # For a backend
//! The functions below emit the events that only a backend can detect. The handle emits the others.

use std::fmt::Display;

use bytes::Bytes;
use tracing::Span;
use tracing::field::Empty;

use crate::Error;

/// The target of every event, whatever file it is emitted in.
const TARGET: &str = "kv_core";

/// Reports that an attempt of the current call failed and that another one follows.
///
/// Attempts count from 1. `endpoint` is where the attempt was made, if that is known. Within the span of a call it also
/// records the number of the next attempt there.
pub fn attempt_failed(backend: &str, endpoint: Option<&str>, attempt: usize, error: &Error) {
    tracing::debug!(target: TARGET, backend, endpoint, attempt, %error, "attempt failed");
    Span::current().record("attempt", attempt + 1);
}

/// Reports that `what` broke and that an attempt is made to restore it.
///
/// Attempts count from 1 since it last worked. The first is a warning; later ones are at debug level.
pub fn reconnecting(backend: &str, what: &str, attempt: usize, error: &dyn Display) {
    if attempt == 1 {
        tracing::warn!(target: TARGET, backend, what, attempt, %error, "reconnecting");
    } else {
        tracing::debug!(target: TARGET, backend, what, attempt, %error, "reconnecting");
    }
}

/// Reports that `what` works again, after this many attempts.
pub fn reconnected(backend: &str, what: &str, attempt: usize) {
    tracing::info!(target: TARGET, backend, what, attempt, "reconnected");
}

/// Reports that the current call has waited for a lock for more than a moment. The span of the call names the lock.
///
/// Call it once for each wait, about a second after it began.
pub fn waiting_for_lock(backend: &str) {
    tracing::info!(target: TARGET, backend, "waiting for a lock");
}

/// Reports that the store holds keys that cannot be shown: how many were found, and the first of them.
///
/// Call it once for a listing or for one step of a watch, not for each key: a store may hold very many.
pub fn foreign_keys_left_out(backend: &str, count: usize, first: &[u8]) {
    tracing::warn!(target: TARGET, backend, count, key = ?Bytes::copy_from_slice(first), "foreign keys left out");
}

/// The span of a call.
pub(crate) fn call(operation: &'static str, backend: &'static str, key: &str) -> Span {
    tracing::debug_span!(target: TARGET, "kv", operation, backend, key, outcome = Empty, attempt = Empty)
}

/// A call is over.
pub(crate) fn done(span: &Span, outcome: &'static str) {
    span.record("outcome", outcome);
    tracing::debug!(target: TARGET, parent: span, outcome, "done");
}

/// A renewal failed; `attempt` counts the failures in a row.
pub(crate) fn lease_not_renewed(backend: &str, key: &str, attempt: usize, error: &Error) {
    if attempt == 1 {
        tracing::warn!(target: TARGET, backend, key, %error, "lease not renewed");
    } else {
        tracing::debug!(target: TARGET, backend, key, %error, "lease not renewed");
    }
}

pub(crate) fn lease_renewed_again(backend: &str, key: &str, attempt: usize) {
    tracing::info!(target: TARGET, backend, key, attempt, "lease renewed again");
}

pub(crate) fn lease_lost(backend: &str, key: &str) {
    tracing::warn!(target: TARGET, backend, key, "lease lost");
}

pub(crate) fn lease_left_to_lapse(backend: &str, key: &str, error: &Error) {
    tracing::warn!(target: TARGET, backend, key, %error, "lease left to lapse");
}
