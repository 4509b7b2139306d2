//! Failures that this side notices, without an answer of the server's.

use std::error::Error as StdError;
use std::fmt;

use http::StatusCode;

/// The server certainly did not process the request: it never left, or the server said so.
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

/// The server gives no sign of life, or none to this call although others would long have been served.
#[derive(Debug)]
pub(crate) struct Unresponsive;

impl fmt::Display for Unresponsive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the server does not respond")
    }
}

impl StdError for Unresponsive {}

/// The answer is not one of gRPC. It may come from something between this client and etcd, which may have passed the
/// request on.
#[derive(Debug)]
pub(crate) struct NotGrpc {
    pub(crate) status: StatusCode,
    /// The content type, if it has one.
    pub(crate) kind: Option<String>,
}

impl NotGrpc {
    /// Whether a proxy says this while the server behind it is away or busy.
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
