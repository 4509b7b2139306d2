//! The origin of a gRPC status, and the errors below it.

use std::error::Error as StdError;

use tonic::Status;

/// The part of a server's text that errors quote: a server may send any text, of any length.
pub(crate) fn excerpt(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect()
}

/// Whether the server sent a status. A status that the client made has an error as its source.
pub(super) fn is_from_server(status: &Status) -> bool {
    status.source().is_none()
}

/// The client's own error below a status, if it is of this type.
pub(super) fn local<T: StdError + 'static>(status: &Status) -> Option<&T> {
    below(status).find_map(<dyn StdError>::downcast_ref)
}

/// The errors below an error.
fn below<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(error.source(), |error| (*error).source())
}

/// The texts of the errors below an error, in one line; without any, the error's own text.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let said: Vec<String> = below(error).map(ToString::to_string).collect();
    if said.is_empty() { error.to_string() } else { said.join(": ") }
}
