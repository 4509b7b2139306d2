//! What an answer that is an error proves about the call ([clause W6](kv_core::contract::CLAUSES#W6)), and what helps.
//!
//! Only a refusal by etcd itself, made before it applies anything, proves that nothing was applied. A proxy may use
//! any code with any text, so a code alone proves nothing.

use tonic::Code;

use self::Fate::{NotApplied, Unknown};
use self::Remedy::{AskAnother, AskLater, Change, LogIn, MakeRoom, Nonsense, Permit};

/// What is known of the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    NotApplied,
    Unknown,
}

/// What to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remedy {
    /// Another member may serve.
    AskAnother,
    /// The same member will serve soon.
    AskLater,
    /// A new token may help.
    LogIn,
    /// Give this client the permission.
    Permit,
    /// Make room in the store.
    MakeRoom,
    /// Nothing helps: the request is not one that this server takes.
    Change,
    /// Nothing helps: this is not an answer that etcd gives.
    Nonsense,
}

/// The code, a part of the text, and what they mean. The first row that fits decides.
type Row = (Code, &'static str, Fate, Remedy);

/// What this side says about an answer that it could not take: the server may have applied the call.
const THIS_SIDE: &[Row] = &[
    (Code::OutOfRange, TOO_LARGE, Unknown, Nonsense),
    (Code::Unimplemented, "Content is compressed", Unknown, Nonsense),
    (Code::Internal, "", Unknown, Nonsense),
];

/// What the decoder says of a message that is larger than it takes.
pub(super) const TOO_LARGE: &str = "decoded message length too large";

/// What etcd says, by the published package `api/v3rpc/rpctypes` and by its packages `raft` and `lease`.
const ETCD: &[Row] = &[
    (Code::Unavailable, "etcdserver: no leader", NotApplied, AskAnother),
    (Code::Unavailable, "etcdserver: not capable", NotApplied, AskAnother),
    (Code::Unavailable, "rpc not supported for learner", NotApplied, AskAnother),
    (Code::FailedPrecondition, "rpc not supported for learner", NotApplied, AskAnother),
    (Code::OutOfRange, "required revision is a future revision", NotApplied, AskAnother),
    (Code::ResourceExhausted, "etcdserver: too many requests", NotApplied, AskLater),
    // A member that hands its leadership over. It never entered the proposal into its log. Another member would
    // forward it to this one, which then drops it without an answer: so the same member is asked again.
    (Code::Unknown, "raft proposal dropped", NotApplied, AskLater),
    (Code::Unknown, "not a primary lessor", NotApplied, AskAnother),
    (Code::Unavailable, "not a primary lessor", NotApplied, AskAnother),
    (Code::Unknown, "raft: stopped", Unknown, AskAnother),
    // Said before the write is proposed, but also after it was applied.
    (Code::ResourceExhausted, "database space exceeded", Unknown, MakeRoom),
    (Code::Unauthenticated, "invalid auth token", NotApplied, LogIn),
    (Code::InvalidArgument, "revision of auth store is old", NotApplied, LogIn),
    (Code::InvalidArgument, "user name is empty", NotApplied, LogIn),
    (Code::InvalidArgument, "authentication failed", NotApplied, Permit),
    (Code::FailedPrecondition, "authentication failed", NotApplied, Permit),
    (Code::InvalidArgument, "permission denied", NotApplied, Permit),
    (Code::PermissionDenied, "etcdserver: ", NotApplied, Permit),
    (Code::Unauthenticated, "etcdserver: ", NotApplied, Permit),
    (Code::InvalidArgument, "etcdserver: ", NotApplied, Change),
    (Code::NotFound, "etcdserver: ", NotApplied, Change),
    (Code::AlreadyExists, "etcdserver: ", NotApplied, Change),
    (Code::ResourceExhausted, "etcdserver: ", NotApplied, Change),
    (Code::FailedPrecondition, "etcdserver: ", NotApplied, Change),
    (Code::OutOfRange, "etcdserver: ", NotApplied, Change),
    (Code::DataLoss, "etcdserver: ", NotApplied, Change),
];

/// What etcd's gRPC library says before it passes the request on.
const GRPC: &[Row] = &[
    (Code::ResourceExhausted, "grpc: received message larger than max", NotApplied, Change),
    (Code::Unimplemented, "unknown service", NotApplied, Change),
    (Code::Unimplemented, "unknown method", NotApplied, Change),
];

/// What a code means where the text is not known: anybody may have said it.
const ANYBODY: &[Row] = &[
    (Code::Unavailable, "", Unknown, AskAnother),
    (Code::DeadlineExceeded, "", Unknown, AskAnother),
    (Code::Cancelled, "", Unknown, AskAnother),
    (Code::Aborted, "", Unknown, AskAnother),
    (Code::Unauthenticated, "", Unknown, Permit),
    (Code::PermissionDenied, "", Unknown, Permit),
    (Code::Ok, "", Unknown, Nonsense),
    (Code::Unknown, "", Unknown, Nonsense),
];

/// Looks an error up.
pub(super) fn meaning(code: Code, text: &str) -> (Fate, Remedy) {
    let rows = [THIS_SIDE, ETCD, GRPC, ANYBODY].into_iter().flatten();
    let found = rows.into_iter().find(|(of, part, ..)| *of == code && text.contains(part));
    found.map_or((Unknown, Change), |(_, _, fate, remedy)| (*fate, *remedy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_proves_nothing() {
        for code in 1..=16 {
            let (fate, _) = meaning(Code::from(code), "upstream connect error or disconnect/reset before headers");
            assert_eq!(fate, Unknown, "{code}");
        }
    }

    #[test]
    fn every_row_can_be_reached() {
        for (code, text, fate, remedy) in [THIS_SIDE, ETCD, GRPC, ANYBODY].into_iter().flatten() {
            assert_eq!(meaning(*code, text), (*fate, *remedy), "{code:?} {text:?}");
        }
    }
}
