//! The errors for failures of the transport: the agent, what happened, and how to fix it.

use std::error::Error as StdError;
use std::io;

use kv_core::Error;
use kv_core::backend::fate::Idempotence;

use super::fault::Fault;
use super::tls;

/// The error for a request that got no answer. `sent` is its idempotence, or `None` if it certainly never left.
///
/// The URL is left out: it contains the key, and perhaps secrets that an operator put there.
pub(super) fn failure(error: reqwest::Error, agent: &str, sent: Option<Idempotence>) -> Error {
    let error = error.without_url();
    let mapped = match fault(&error, agent) {
        Fault::Denied(reason) => Error::permission_denied(reason),
        // A server that does not answer in HTTP may still have applied a write.
        Fault::Wrong(reason) if error.is_connect() || sent != Some(Idempotence::Once) => {
            Error::unexpected_answer(reason)
        }
        Fault::Wrong(reason) | Fault::Broken(reason) => {
            if error.is_builder() || error.is_connect() {
                Error::unavailable(reason)
            } else {
                sent.map_or_else(|| Error::unavailable(&reason), |idempotence| idempotence.unknown(&reason))
            }
        }
    };
    mapped.with_source(error)
}

fn fault(error: &reqwest::Error, agent: &str) -> Fault {
    if let Some(fault) = all(error).find_map(|one| tls::fault(one, agent)) {
        return fault;
    }
    if is_gibberish(error) {
        return Fault::Wrong(format!("{agent} does not answer in HTTP: {}", chain(error)));
    }
    let kind = all(error).find_map(|one| one.downcast_ref::<io::Error>()).map(io::Error::kind);
    Fault::Broken(match kind {
        Some(io::ErrorKind::ConnectionRefused) => {
            format!("{agent} refused the connection: check that the agent runs and listens there")
        }
        _ if error.is_timeout() && error.is_connect() => {
            format!("{agent} did not accept a connection in time: check that nothing in between drops packets")
        }
        _ if error.is_connect() => format!("no connection to {agent}: {}", chain(error)),
        _ => format!("{agent} did not answer: {}", chain(error)),
    })
}

/// An error and its sources.
fn all<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), below)
}

/// The error inside an error. The `source` of an I/O error skips it.
fn below<'a>(error: &&'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    let error: &'a (dyn StdError + 'static) = *error;
    let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    wrapped.map(|wrapped| -> &'a (dyn StdError + 'static) { wrapped }).or_else(|| error.source())
}

/// Whether the answer is not HTTP.
fn is_gibberish(error: &(dyn StdError + 'static)) -> bool {
    all(error)
        .filter_map(|one| one.downcast_ref::<hyper::Error>())
        .any(|one| one.is_parse() && !one.is_incomplete_message())
}

/// An error and its sources, in one line.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = String::new();
    for one in all(error) {
        let more = one.to_string();
        // Some errors repeat the text of their source.
        if !text.ends_with(&more) {
            text.push_str(if text.is_empty() { "" } else { ": " });
            text.push_str(&more);
        }
    }
    text
}
