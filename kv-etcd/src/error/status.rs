//! What a status says beside its code: whose word it is, and what lies below it.

use std::error::Error as StdError;

use tonic::Status;

/// What of a server's text is quoted: it may send anything, of any length.
pub(crate) fn excerpt(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect()
}

/// Whether a status is the server's own word. One that was made on this side has an error as its source.
pub(super) fn is_from_server(status: &Status) -> bool {
    status.source().is_none()
}

/// The error of this side's below a status.
pub(super) fn local<T: StdError + 'static>(status: &Status) -> Option<&T> {
    below(status).find_map(<dyn StdError>::downcast_ref)
}

/// The errors below an error.
fn below<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(error.source(), |error| (*error).source())
}

/// What lies below an error, in one line.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let said: Vec<String> = below(error).map(ToString::to_string).collect();
    if said.is_empty() { error.to_string() } else { said.join(": ") }
}
