//! What failures mean: from the transport and from gRPC's codes and messages to [`Error`].

use std::error::Error as StdError;

use kv_core::Error;
use kv_core::backend::fate::Idempotence;
use tonic::{Code, Status};

/// Why a call has no answer to give.
#[derive(Debug, Clone)]
pub(crate) enum Failed {
    /// There was nobody to send it to.
    Unreachable(Unreachable),
    /// It was sent, or was about to be.
    Status {
        status: Status,
        /// Whether the call may be sent again although its fate is unknown.
        idempotence: Idempotence,
    },
}

/// Why there is no connection; so nothing was sent.
#[derive(Debug, Clone)]
pub(crate) struct Unreachable {
    why: Why,
    reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Why {
    /// It is there, and its cluster elects a leader: that takes a second or two.
    Leaderless,
    /// It may be there later.
    ForNow,
    /// It answered, but is not the server that was meant.
    Wrong,
    /// It refuses this client.
    Denied,
}

/// The request never left this process.
#[derive(Debug)]
pub(crate) struct NotSent(pub(crate) h2::Error);

impl std::fmt::Display for NotSent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the connection ended before the request was sent")
    }
}

impl StdError for NotSent {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.0)
    }
}

/// What the decoder says of a message that is larger than it takes.
const TOO_LARGE: &str = "decoded message length too large";

/// What an answer that is an error says about the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Certainly not applied; another member, or a later attempt, may do better.
    NotNow,
    /// Certainly not applied: this client may not do it.
    Denied,
    /// Certainly not applied, and never will be.
    Refused,
    /// A write may have been applied.
    Unsure,
    /// A write may have been applied, and a read need not be tried again.
    Unexpected,
}

/// The table: what the codes and messages of etcd's API mean for the fate of the call.
///
/// Codes alone do not tell: etcd uses `Unavailable` for what it refused at once as well as for what it gave up
/// waiting for. Messages are those of the published package `api/v3rpc/rpctypes`.
fn judge(code: Code, message: &str) -> Verdict {
    const NOT_NOW: [&str; 5] = [
        "no leader",
        "too many requests",
        "database space exceeded",
        "future revision",
        "rpc not supported for learner",
    ];
    const DENIED: [&str; 5] = [
        "user name is empty",
        "authentication failed",
        "revision of auth store is old",
        "invalid auth token",
        "permission denied",
    ];
    if code != Code::Unknown && NOT_NOW.iter().any(|known| message.ends_with(known)) {
        return Verdict::NotNow;
    }
    // This side's own words: an answer came, and the call may have been applied.
    if code == Code::OutOfRange && message.contains(TOO_LARGE) {
        return Verdict::Unexpected;
    }
    match code {
        Code::Unauthenticated | Code::PermissionDenied => Verdict::Denied,
        Code::InvalidArgument | Code::FailedPrecondition if DENIED.iter().any(|known| message.contains(known)) => {
            Verdict::Denied
        }
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::DataLoss => Verdict::Refused,
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Aborted => Verdict::Unsure,
        Code::Ok | Code::Unknown | Code::Internal => Verdict::Unexpected,
    }
}

impl Failed {
    /// An answer that etcd does not give.
    pub(crate) fn unexpected(what: &str) -> Self {
        Self::Status { status: Status::internal(what), idempotence: Idempotence::Repeatable }
    }

    /// The answer was not waited for any longer.
    pub(crate) fn given_up(idempotence: Idempotence) -> Self {
        let why = std::io::Error::other("it was given up");
        Self::Status { status: Status::from_error(why.into()), idempotence }
    }

    /// Whether the server refused the request for what it asks, so that nothing was applied.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::Status { status, .. } if is_from_server(status)
            && matches!(judge(status.code(), status.message()), Verdict::Denied | Verdict::Refused))
    }

    /// Whether the same call may be sent to another endpoint: it was not applied, or cannot matter if it was.
    pub(crate) fn moves_on(&self) -> bool {
        match self {
            Self::Unreachable(_) => false,
            Self::Status { status, idempotence } if !is_from_server(status) => {
                not_sent(status) || idempotence.is_repeatable()
            }
            Self::Status { status, idempotence } => match judge(status.code(), status.message()) {
                Verdict::NotNow => status.code() == Code::Unavailable,
                Verdict::Unsure => idempotence.is_repeatable(),
                Verdict::Denied | Verdict::Refused | Verdict::Unexpected => false,
            },
        }
    }

    /// Whether the credentials are good, but the token is stale, so that a new one may help: nothing was applied.
    pub(crate) fn is_stale_token(&self) -> bool {
        matches!(self, Self::Status { status, .. } if is_from_server(status) && is_stale_token(status.code(), status.message()))
    }

    /// Whether etcd does not know the lease of the call.
    pub(crate) fn is_lease_not_found(&self) -> bool {
        self.says(Code::NotFound, "lease not found")
    }

    /// Whether another lease has the id that was asked for.
    pub(crate) fn is_lease_exists(&self) -> bool {
        self.says(Code::FailedPrecondition, "lease already exists")
    }

    /// Whether the revision asked for is gone.
    pub(crate) fn is_compacted(&self) -> bool {
        self.says(Code::OutOfRange, "has been compacted")
    }

    /// Whether the answer is too large for the server to send, or for this side to take.
    pub(crate) fn is_too_large(&self) -> bool {
        self.says(Code::ResourceExhausted, "larger than max") || self.says(Code::OutOfRange, TOO_LARGE)
    }

    /// Whether the server has no users.
    pub(crate) fn is_auth_not_enabled(&self) -> bool {
        self.says(Code::FailedPrecondition, "authentication is not enabled")
    }

    /// Whether the cluster refused this client at the end of everything else, so that it can serve.
    pub(crate) fn is_permission_denied(&self) -> bool {
        self.says(Code::PermissionDenied, "permission denied")
    }

    fn says(&self, code: Code, text: &str) -> bool {
        matches!(self, Self::Status { status, .. } if status.code() == code && status.message().contains(text))
    }
}

/// As [`Failed::is_stale_token`], for the reason that a watch was refused for.
pub(crate) fn is_stale_token(code: Code, message: &str) -> bool {
    message.contains("invalid auth token")
        || code == Code::InvalidArgument
            && (message.contains("revision of auth store is old") || message.contains("user name is empty"))
}

impl From<Unreachable> for Failed {
    fn from(unreachable: Unreachable) -> Self {
        Self::Unreachable(unreachable)
    }
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        let (status, idempotence) = match failed {
            Failed::Unreachable(unreachable) => return unreachable.into(),
            Failed::Status { status, idempotence } => (status, idempotence),
        };
        let reason = if is_from_server(&status) {
            format!("the server answered {:?}: {}", status.code(), excerpt(status.message()))
        } else {
            format!("no answer came: {}", chain(&status))
        };
        let verdict = match is_from_server(&status) {
            true => judge(status.code(), status.message()),
            false if not_sent(&status) => Verdict::NotNow,
            false => Verdict::Unsure,
        };
        let error = match verdict {
            Verdict::Unsure | Verdict::Unexpected if !idempotence.is_repeatable() => Self::indeterminate(reason),
            Verdict::NotNow | Verdict::Unsure => Self::unavailable(reason),
            Verdict::Refused | Verdict::Unexpected => Self::unexpected_answer(reason),
            Verdict::Denied => Self::permission_denied(reason),
        };
        error.with_source(status)
    }
}

/// What of a server's text is quoted: it may send anything, of any length.
pub(crate) fn excerpt(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect()
}

/// Whether a status is the server's own word. One that was made on this side has an error as its source.
fn is_from_server(status: &Status) -> bool {
    status.source().is_none()
}

fn not_sent(status: &Status) -> bool {
    status.source().is_some_and(<dyn StdError>::is::<NotSent>)
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

impl std::fmt::Display for Unreachable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.reason)
    }
}

impl Unreachable {
    pub(crate) fn for_now(reason: impl Into<String>) -> Self {
        Self { why: Why::ForNow, reason: reason.into() }
    }

    pub(crate) fn leaderless() -> Self {
        Self { why: Why::Leaderless, reason: "it has no leader".to_owned() }
    }

    /// Whether it is worth asking the same endpoint again soon.
    pub(crate) fn is_leaderless(&self) -> bool {
        self.why == Why::Leaderless
    }

    pub(crate) fn wrong(reason: impl Into<String>) -> Self {
        Self { why: Why::Wrong, reason: reason.into() }
    }

    pub(crate) fn denied(reason: impl Into<String>) -> Self {
        Self { why: Why::Denied, reason: reason.into() }
    }

    /// What it says about a server that the first call on a new connection failed, and why the connection ended if
    /// it did.
    pub(crate) fn from_first_call(status: &Status, ended: Option<&str>, encrypted: bool) -> Self {
        if is_from_server(status) {
            let said = format!("it answered {:?}: {}", status.code(), excerpt(status.message()));
            return match judge(status.code(), status.message()) {
                Verdict::NotNow | Verdict::Unsure => Self::for_now(said),
                Verdict::Denied => Self::denied(said),
                Verdict::Refused | Verdict::Unexpected => Self::wrong(said),
            };
        }
        let said = ended.map_or_else(|| chain(status), str::to_owned);
        let has = |known: &[&str]| known.iter().any(|known| said.contains(known));
        // With TLS 1.3 a server refuses the client's certificate only after the handshake.
        if has(&["received fatal alert"]) {
            return Self::denied(format!("it wants a certificate of this client's (`cert` and `key`): {said}"));
        }
        // Whose frames cannot be read does not speak HTTP/2.
        if has(&["frame with invalid size", "unspecific protocol error", "FRAME_SIZE_ERROR", "PROTOCOL_ERROR"]) {
            let or = if encrypted { "" } else { ", or wants TLS (`etcds://`)" };
            return Self::wrong(format!("it does not speak gRPC{or}: {said}"));
        }
        // What a server that stops does, and one that takes plain text for a broken handshake.
        let hint = if encrypted { "" } else { " (if it wants TLS, write `etcds://`)" };
        Self::for_now(format!("it hung up{hint}: {said}"))
    }

    /// One failure for several endpoints: the one that a caller can do most about decides.
    pub(crate) fn all(failures: &[(String, Self)]) -> Self {
        let why = failures.iter().map(|(_, failure)| failure.why).max().unwrap_or(Why::ForNow);
        let said: Vec<String> = failures.iter().map(|(endpoint, one)| format!("{endpoint}: {}", one.reason)).collect();
        Self { why, reason: said.join("; ") }
    }
}

impl From<Unreachable> for Error {
    fn from(unreachable: Unreachable) -> Self {
        match unreachable.why {
            Why::Leaderless | Why::ForNow => Self::unavailable(unreachable.reason),
            Why::Wrong => Self::unexpected_answer(unreachable.reason),
            Why::Denied => Self::permission_denied(unreachable.reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn error(code: Code, message: &str, idempotence: Idempotence) -> Error {
        Failed::Status { status: Status::new(code, message), idempotence }.into()
    }

    #[test]
    fn a_write_of_unknown_fate_is_indeterminate_and_a_refused_one_is_not() {
        let table = [
            (Code::Unavailable, "etcdserver: no leader", "unavailable", "unavailable"),
            (Code::Unavailable, "etcdserver: leader changed", "indeterminate", "unavailable"),
            (Code::Unavailable, "etcdserver: request timed out", "indeterminate", "unavailable"),
            (Code::Unavailable, "etcdserver: server stopped", "indeterminate", "unavailable"),
            (Code::Unavailable, "etcdserver: rpc not supported for learner", "unavailable", "unavailable"),
            (Code::DeadlineExceeded, "context deadline exceeded", "indeterminate", "unavailable"),
            (Code::ResourceExhausted, "etcdserver: too many requests", "unavailable", "unavailable"),
            (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded", "unavailable", "unavailable"),
            (Code::ResourceExhausted, "grpc: received message larger than max", "unexpected", "unexpected"),
            (Code::InvalidArgument, "etcdserver: request is too large", "unexpected", "unexpected"),
            (Code::InvalidArgument, "etcdserver: user name is empty", "denied", "denied"),
            (
                Code::InvalidArgument,
                "etcdserver: authentication failed, invalid user ID or password",
                "denied",
                "denied",
            ),
            (Code::Unauthenticated, "etcdserver: invalid auth token", "denied", "denied"),
            (Code::PermissionDenied, "etcdserver: permission denied", "denied", "denied"),
            (
                Code::OutOfRange,
                "etcdserver: mvcc: required revision is a future revision",
                "unavailable",
                "unavailable",
            ),
            (Code::Unimplemented, "unknown service etcdserverpb.KV", "unexpected", "unexpected"),
            (Code::Unknown, "raft: stopped", "indeterminate", "unexpected"),
            (Code::Internal, "what a proxy makes up", "indeterminate", "unexpected"),
        ];
        for (code, message, write, read) in table {
            for (idempotence, expected) in [(Idempotence::Once, write), (Idempotence::Repeatable, read)] {
                let got = match error(code, message, idempotence) {
                    Error::Unavailable { .. } => "unavailable",
                    Error::Indeterminate { .. } => "indeterminate",
                    Error::PermissionDenied { .. } => "denied",
                    Error::UnexpectedAnswer { .. } => "unexpected",
                    other => panic!("{other}"),
                };
                assert_eq!(got, expected, "{code:?} {message}, {idempotence:?}");
            }
        }
    }

    #[test]
    fn what_was_cut_off_is_not_taken_for_an_answer() {
        let cut = || {
            let mut status = Status::new(Code::Unknown, "transport");
            status.set_source(Arc::new(std::io::Error::other("reset")));
            status
        };
        assert!(matches!(
            Failed::Status { status: cut(), idempotence: Idempotence::Once }.into(),
            Error::Indeterminate { .. }
        ));
        assert!(matches!(
            Failed::Status { status: cut(), idempotence: Idempotence::Repeatable }.into(),
            Error::Unavailable { .. }
        ));
        assert!(!Failed::Status { status: cut(), idempotence: Idempotence::Once }.moves_on());
        assert!(Failed::Status { status: cut(), idempotence: Idempotence::Repeatable }.moves_on());
    }

    #[test]
    fn a_member_without_a_leader_is_left_for_another() {
        let no_leader =
            |idempotence| Failed::Status { status: Status::unavailable("etcdserver: no leader"), idempotence };
        assert!(no_leader(Idempotence::Once).moves_on() && no_leader(Idempotence::Repeatable).moves_on());
        let leader_changed = Failed::Status {
            status: Status::unavailable("etcdserver: leader changed"),
            idempotence: Idempotence::Once,
        };
        assert!(!leader_changed.moves_on());
    }

    #[test]
    fn of_several_endpoints_the_most_telling_failure_decides() {
        let failures = vec![
            ("a:1".to_owned(), Unreachable::for_now("connection refused")),
            ("b:2".to_owned(), Unreachable::wrong("it does not speak gRPC")),
        ];
        let error = Error::from(Unreachable::all(&failures));
        assert!(matches!(error, Error::UnexpectedAnswer { .. }));
        assert!(error.to_string().contains("a:1: connection refused; b:2: it does not speak gRPC"));
    }
}
