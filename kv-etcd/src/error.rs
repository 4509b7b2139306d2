//! Failed calls, and the [`Error`] for each: from failures of the transport and from gRPC's codes and texts.

mod local;
mod status;
mod table;
mod unreachable;

use std::sync::Arc;

use kv_core::Error;
use kv_core::backend::fate::Idempotence;
use tonic::{Code, Status};

pub(crate) use self::local::{NotGrpc, NotSent, Unresponsive};
pub(crate) use self::status::{chain, excerpt};
use self::status::{is_from_server, local};
use self::table::{Fate, Remedy, TOO_LARGE, meaning};
pub(crate) use self::unreachable::{FirstCall, Unreachable};

/// A call that failed.
#[derive(Debug, Clone)]
pub(crate) enum Failed {
    /// There was no connection, so nothing was sent.
    Unreachable(Unreachable),
    /// It was sent, or was about to be sent.
    Status {
        status: Status,
        /// Whether the call may be sent again although its fate is unknown.
        idempotence: Idempotence,
        /// The endpoint that it was sent to, if that is known.
        endpoint: Option<Arc<str>>,
    },
}

impl Failed {
    /// A call to an endpoint failed.
    pub(crate) fn at(endpoint: &Arc<str>, idempotence: Idempotence, status: Status) -> Self {
        Self::Status { status, idempotence, endpoint: Some(Arc::clone(endpoint)) }
    }

    /// A stream failed; it may be opened again.
    pub(crate) fn stream(endpoint: &Arc<str>, status: Status) -> Self {
        Self::at(endpoint, Idempotence::Repeatable, status)
    }

    /// The failure for an answer that etcd never gives.
    pub(crate) fn unexpected(what: &str) -> Self {
        Self::Status { status: Status::internal(what), idempotence: Idempotence::Repeatable, endpoint: None }
    }

    /// The client has no answer: its task ended, or it stopped waiting.
    pub(crate) fn unanswered(why: &str, idempotence: Idempotence) -> Self {
        let status = Status::from_error(std::io::Error::other(why).into());
        Self::Status { status, idempotence, endpoint: None }
    }

    /// The call was never sent, because its caller gave up.
    pub(crate) fn withdrawn() -> Self {
        Unreachable::for_now("it was not sent: its caller no longer waits").into()
    }

    /// Whether the server refused the request because of its content or its caller, so that nothing was applied.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self.meaning(), (Fate::NotApplied, Remedy::Permit | Remedy::Change | Remedy::LogIn))
            && matches!(self, Self::Status { .. })
    }

    /// Whether it is certain that the call was not applied.
    pub(crate) fn is_not_applied(&self) -> bool {
        self.meaning().0 == Fate::NotApplied
    }

    /// Whether the call should be sent again: another attempt may succeed, and the call was not applied or may be
    /// repeated.
    pub(crate) fn is_worth_another_attempt(&self) -> bool {
        match self {
            Self::Unreachable(_) => false,
            Self::Status { idempotence, .. } => {
                let (fate, remedy) = self.meaning();
                matches!(remedy, Remedy::AskAnother | Remedy::AskLater)
                    && (fate == Fate::NotApplied || idempotence.is_repeatable())
            }
        }
    }

    /// Whether the next attempt should use another endpoint first.
    pub(crate) fn is_of_the_endpoint(&self) -> bool {
        self.meaning().1 == Remedy::AskAnother
    }

    fn meaning(&self) -> (Fate, Remedy) {
        match self {
            Self::Unreachable(_) => (Fate::NotApplied, Remedy::AskAnother),
            Self::Status { status, .. } if is_from_server(status) => meaning(status.code(), status.message()),
            Self::Status { status, .. } if local::<NotSent>(status).is_some() => (Fate::NotApplied, Remedy::AskAnother),
            Self::Status { status, .. } => match local::<NotGrpc>(status) {
                Some(answer) if !answer.may_pass() => (Fate::Unknown, Remedy::Nonsense),
                _ => (Fate::Unknown, Remedy::AskAnother),
            },
        }
    }

    /// Whether the token is stale, so that a new one may help; nothing was applied.
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

    /// Whether the requested revision was compacted.
    pub(crate) fn is_compacted(&self) -> bool {
        self.says(Code::OutOfRange, "has been compacted")
    }

    /// Whether the answer is larger than the server sends or than this client accepts.
    pub(crate) fn is_too_large(&self) -> bool {
        self.says(Code::ResourceExhausted, "larger than max") || self.says(Code::OutOfRange, TOO_LARGE)
    }

    /// Whether the server has no users.
    pub(crate) fn is_auth_not_enabled(&self) -> bool {
        self.says(Code::FailedPrecondition, "authentication is not enabled")
    }

    /// Whether etcd denied the call because this user lacks a permission.
    pub(crate) fn is_permission_denied(&self) -> bool {
        self.says(Code::PermissionDenied, "permission denied")
    }

    fn says(&self, code: Code, text: &str) -> bool {
        matches!(self, Self::Status { status, .. } if status.code() == code && status.message().contains(text))
    }
}

/// As [`Failed::is_stale_token`], for the code and the text with which a watch was refused.
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
        let (fate, remedy) = failed.meaning();
        let (status, idempotence, endpoint) = match failed {
            Failed::Unreachable(unreachable) => return unreachable.into(),
            Failed::Status { status, idempotence, endpoint } => (status, idempotence, endpoint),
        };
        let mut reason = match (is_from_server(&status), endpoint.as_deref()) {
            (true, Some(endpoint)) => format!("{endpoint} answered {:?}: {}", status.code(), excerpt(status.message())),
            (true, None) => format!("the server answered {:?}: {}", status.code(), excerpt(status.message())),
            (false, endpoint) => format!("{}: {}", endpoint.unwrap_or("no answer"), excerpt(&chain(&status))),
        };
        if remedy == Remedy::MakeRoom {
            reason.push_str(FULL);
        }
        let error = match remedy {
            _ if fate == Fate::Unknown && !idempotence.is_repeatable() => Self::indeterminate(reason),
            Remedy::AskAnother | Remedy::AskLater => Self::unavailable(reason),
            Remedy::LogIn | Remedy::Permit => Self::permission_denied(reason),
            Remedy::MakeRoom => Self::storage_full(reason),
            Remedy::Change | Remedy::Nonsense => Self::unexpected_answer(reason),
        };
        error.with_source(status)
    }
}

/// The error for a store that has raised this alarm.
pub(crate) fn storage_full(alarm: &str) -> Error {
    Error::storage_full(format!("the server has the alarm {}{FULL}", excerpt(alarm.trim())))
}

/// What the operator of a full store must do.
const FULL: &str = "; the store is full: compact and defragment it or raise its quota, then run `etcdctl alarm disarm`";

#[cfg(test)]
mod tests;
