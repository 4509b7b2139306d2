//! Failed attempts to connect, and what each says about its endpoint.

use kv_core::Error;
use tonic::Status;

use super::local::NotGrpc;
use super::status::{chain, excerpt, is_from_server, local};
use super::table::{Remedy, meaning};

/// Why there is no connection. Nothing was sent.
#[derive(Debug, Clone)]
pub(crate) struct Unreachable {
    why: Why,
    reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Why {
    /// The endpoint may serve later.
    ForNow,
    /// It is another kind of server.
    Wrong,
    /// It refuses this client.
    Denied,
}

/// What is known about a connection whose first call failed.
pub(crate) struct FirstCall<'a> {
    /// Why the connection ended, if it did.
    pub(crate) ended: Option<&'a str>,
    pub(crate) encrypted: bool,
    /// An earlier connection to it worked.
    pub(crate) worked_before: bool,
}

impl std::fmt::Display for Unreachable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.reason)
    }
}

impl Unreachable {
    pub(crate) fn for_now(reason: impl Into<String>) -> Self {
        Self { why: Why::ForNow, reason: reason.into() }
    }

    pub(crate) fn wrong(reason: impl Into<String>) -> Self {
        Self { why: Why::Wrong, reason: reason.into() }
    }

    pub(crate) fn denied(reason: impl Into<String>) -> Self {
        Self { why: Why::Denied, reason: reason.into() }
    }

    /// Whether another attempt would fail in the same way.
    pub(crate) fn is_permanent(&self) -> bool {
        self.why != Why::ForNow
    }

    /// Concludes from the first call on a new connection, which failed, what is wrong with the endpoint.
    pub(crate) fn from_first_call(status: &Status, attempt: &FirstCall<'_>) -> Self {
        if is_from_server(status) {
            let said = format!("it answered {:?}: {}", status.code(), excerpt(status.message()));
            return match meaning(status.code(), status.message()).1 {
                Remedy::AskAnother | Remedy::AskLater | Remedy::MakeRoom => Self::for_now(said),
                Remedy::LogIn | Remedy::Permit => Self::denied(said),
                Remedy::Change | Remedy::Nonsense => Self::wrong(said),
            };
        }
        if let Some(answer) = local::<NotGrpc>(status) {
            return if answer.may_pass() { Self::for_now(answer.to_string()) } else { Self::wrong(answer.to_string()) };
        }
        Self::from_broken_connection(&attempt.ended.map_or_else(|| chain(status), str::to_owned), attempt)
    }

    fn from_broken_connection(said: &str, attempt: &FirstCall<'_>) -> Self {
        let has = |known: &[&str]| known.iter().any(|known| said.contains(known));
        // With TLS 1.3 a server refuses the client's certificate only after the handshake.
        if has(&["received fatal alert"]) {
            return Self::denied(format!("it wants a certificate of this client's (`cert` and `key`): {said}"));
        }
        if attempt.worked_before {
            return Self::for_now(format!("it ended the connection: {said}"));
        }
        // A server whose frames cannot be read does not speak HTTP/2.
        if has(&["frame with invalid size", "unspecific protocol error", "FRAME_SIZE_ERROR", "PROTOCOL_ERROR"]) {
            let or = if attempt.encrypted { "" } else { ", or wants TLS (`etcds://`)" };
            return Self::wrong(format!("it does not speak gRPC{or}: {said}"));
        }
        // A server that stops hangs up, and so does one that expects TLS and receives plain text.
        let hint = if attempt.encrypted { "" } else { " (if it wants TLS, write `etcds://`)" };
        Self::for_now(format!("it hung up{hint}: {said}"))
    }

    /// Joins the failures of several endpoints. They are permanent only if each of them is.
    pub(crate) fn all<'a>(failures: impl IntoIterator<Item = (&'a str, &'a Self)>) -> Self {
        let (whys, said): (Vec<Why>, Vec<String>) =
            failures.into_iter().map(|(endpoint, one)| (one.why, format!("{endpoint}: {}", one.reason))).unzip();
        let permanent = whys.iter().max().filter(|_| !whys.contains(&Why::ForNow));
        Self { why: permanent.copied().unwrap_or(Why::ForNow), reason: said.join("; ") }
    }
}

impl From<Unreachable> for Error {
    fn from(unreachable: Unreachable) -> Self {
        match unreachable.why {
            Why::ForNow => Self::unavailable(unreachable.reason),
            Why::Wrong => Self::unexpected_answer(unreachable.reason),
            Why::Denied => Self::permission_denied(unreachable.reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_endpoints_are_wrong_only_if_each_is() {
        let (refused, wrong) = (Unreachable::for_now("connection refused"), Unreachable::wrong("it is Consul"));
        let error = Error::from(Unreachable::all([("a:1", &refused), ("b:2", &wrong)]));
        assert!(matches!(error, Error::Unavailable { .. }));
        assert!(error.to_string().contains("a:1: connection refused; b:2: it is Consul"));
        let denied = Unreachable::denied("no certificate");
        let error = Error::from(Unreachable::all([("a:1", &wrong), ("b:2", &denied)]));
        assert!(matches!(error, Error::PermissionDenied { .. }));
    }

    #[test]
    fn tls_is_suggested_only_where_nothing_has_worked() {
        let broke = || Status::from_error(std::io::Error::other("reset").into());
        let said = |worked_before| {
            let attempt = FirstCall { ended: None, encrypted: false, worked_before };
            Unreachable::from_first_call(&broke(), &attempt).to_string()
        };
        assert!(said(false).contains("etcds://") && !said(true).contains("etcds://"));
    }
}
