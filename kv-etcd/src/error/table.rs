//! What an error answer proves about the call ([clause W6](kv_core::contract::CLAUSES#W6)), and what helps against it.
//!
//! Only a refusal by etcd itself, made before it applies anything, proves that nothing was applied. A proxy may use
//! any code with any text, so a code alone proves nothing.

use tonic::Code;

use self::Fate::{NotApplied, Unknown};
use self::Remedy::{AskAnother, AskLater, Change, LogIn, MakeRoom, Nonsense, Permit};

/// What is known about the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    NotApplied,
    Unknown,
}

/// What helps.
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
    /// Nothing helps: this server does not accept such a request.
    Change,
    /// Nothing helps: etcd gives no such answer.
    Nonsense,
}

/// The code, a part of the text, and what they mean. The first row that fits decides.
type Row = (Code, &'static str, Fate, Remedy);

/// The client's own errors about an answer that it cannot decode: the server may have applied the call.
const THIS_SIDE: &[Row] = &[
    (Code::OutOfRange, TOO_LARGE, Unknown, Nonsense),
    (Code::Unimplemented, "Content is compressed", Unknown, Nonsense),
    (Code::Internal, "", Unknown, Nonsense),
];

/// The decoder's text for a message over its limit.
pub(super) const TOO_LARGE: &str = "decoded message length too large";

/// The texts of etcd: of the published package `api/v3rpc/rpctypes`, and of its packages `raft` and `lease`.
const ETCD: &[Row] = &[
    (Code::Unavailable, "etcdserver: no leader", NotApplied, AskAnother),
    (Code::Unavailable, "etcdserver: not capable", NotApplied, AskAnother),
    (Code::Unavailable, "rpc not supported for learner", NotApplied, AskAnother),
    (Code::FailedPrecondition, "rpc not supported for learner", NotApplied, AskAnother),
    (Code::OutOfRange, "required revision is a future revision", NotApplied, AskAnother),
    (Code::ResourceExhausted, "etcdserver: too many requests", NotApplied, AskLater),
    // The member is transferring its leadership, and the proposal never entered its log. Another member would
    // forward the proposal to this one, which then drops it without an answer. So the same member is asked again.
    (Code::Unknown, "raft proposal dropped", NotApplied, AskLater),
    (Code::Unknown, "not a primary lessor", NotApplied, AskAnother),
    (Code::Unavailable, "not a primary lessor", NotApplied, AskAnother),
    (Code::Unknown, "raft: stopped", Unknown, AskAnother),
    // etcd gives this answer before it proposes the write, but also after it has applied it.
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

/// The texts of etcd's gRPC library, before it hands the request to etcd.
const GRPC: &[Row] = &[
    (Code::ResourceExhausted, "grpc: received message larger than max", NotApplied, Change),
    (Code::Unimplemented, "unknown service", NotApplied, Change),
    (Code::Unimplemented, "unknown method", NotApplied, Change),
];

/// What a code means with an unknown text, which a proxy may have sent as well.
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
