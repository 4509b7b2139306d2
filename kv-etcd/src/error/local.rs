//! Failures that the client detects itself, without an answer from the server.

use std::error::Error as StdError;
use std::fmt;

use http::StatusCode;

/// The server certainly did not process the request: it was never sent, or the server said so.
#[derive(Debug)]
pub(crate) struct NotSent(pub(crate) h2::Error);

impl fmt::Display for NotSent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the server did not take the request")
    }
}

impl StdError for NotSent {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.0)
    }
}

/// The server sends nothing at all, or answers no call although one has waited for a second.
#[derive(Debug)]
pub(crate) struct Unresponsive;

impl fmt::Display for Unresponsive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the server does not respond")
    }
}

impl StdError for Unresponsive {}

/// The answer is not a gRPC answer. It may come from a proxy, which may have forwarded the request to etcd.
#[derive(Debug)]
pub(crate) struct NotGrpc {
    pub(crate) status: StatusCode,
    /// The content type, if it has one.
    pub(crate) kind: Option<String>,
}

impl NotGrpc {
    /// Whether a proxy gives this answer while the server behind it is down or busy.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(self.status.as_u16(), 408 | 429 | 502 | 503 | 504)
    }
}

impl fmt::Display for NotGrpc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind.as_deref().unwrap_or("no content type");
        write!(f, "the answer is not gRPC but HTTP {} ({kind}), as a proxy may give it", self.status)
    }
}

impl StdError for NotGrpc {}
