//! Which error a call ends with when its outcome is unknown ([clause W6](crate::contract::CLAUSES#W6)).

use std::time::Duration;

use crate::Error;

/// Whether a call may be sent twice.
///
/// ```
/// # use kv_core::{Error, backend::fate::Idempotence};
/// assert!(Idempotence::Repeatable.unknown("the connection broke").is_retryable());
/// assert!(matches!(Idempotence::Once.unknown("the connection broke"), Error::Indeterminate { .. }));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Idempotence {
    /// A read, or a write that can be repeated without changing the outcome.
    Repeatable,
    /// A write that must be sent at most once.
    Once,
}

impl Idempotence {
    /// Whether the call may be sent again although it may have been applied.
    pub fn is_repeatable(self) -> bool {
        self == Self::Repeatable
    }

    /// The error of a call that was sent and whose outcome is unknown.
    ///
    /// It is [`Error::Unavailable`] for a repeatable call, because the caller loses nothing by making it again, and
    /// [`Error::Indeterminate`] for any other.
    pub fn unknown(self, reason: impl Into<String>) -> Error {
        match self {
            Self::Repeatable => Error::unavailable(reason),
            Self::Once => Error::indeterminate(reason),
        }
    }

    /// The error of a call that was sent and not answered within `limit`.
    pub fn late(self, limit: Duration) -> Error {
        self.unknown(format!("no answer within {limit:?}"))
    }
}

/// Copies an error for another caller of the same request.
///
/// Several callers can share one request, and each needs an error of its own. The kind, the keys and the reasons are
/// kept. The source cannot be copied; its text is already part of the reason.
pub fn copy(error: &Error) -> Error {
    match error {
        Error::NotFound { key } => Error::NotFound { key: key.clone() },
        Error::Conflict { key, kind } => Error::Conflict { key: key.clone(), kind: kind.clone() },
        Error::Lost { key } => Error::Lost { key: key.clone() },
        Error::Closed { key } => Error::Closed { key: key.clone() },
        Error::LeftToLapse { keys, reason, within } => {
            Error::LeftToLapse { keys: keys.clone(), reason: reason.clone(), within: *within }
        }
        Error::InvalidKey { key, reason } => Error::InvalidKey { key: key.clone(), reason: reason.clone() },
        Error::ValueTooLarge { key, bytes, max } => Error::ValueTooLarge { key: key.clone(), bytes: *bytes, max: *max },
        Error::TxnTooLarge { operations, bytes, max_operations, max_bytes } => Error::TxnTooLarge {
            operations: *operations,
            bytes: *bytes,
            max_operations: *max_operations,
            max_bytes: *max_bytes,
        },
        Error::OverlappingWrites { key } => Error::OverlappingWrites { key: key.clone() },
        Error::ForeignLock { key, held, backend } => Error::ForeignLock { key: key.clone(), held, backend },
        Error::InvalidTtl { ttl, min, max } => Error::InvalidTtl { ttl: *ttl, min: *min, max: *max },
        Error::Compacted { after, oldest } => Error::Compacted { after: *after, oldest: *oldest },
        Error::InvalidAddress { reason } => Error::InvalidAddress { reason: reason.clone() },
        Error::UnknownScheme { scheme, known } => Error::UnknownScheme { scheme: scheme.clone(), known: known.clone() },
        Error::DuplicateScheme { scheme, first, second } => {
            Error::DuplicateScheme { scheme: scheme.clone(), first: first.clone(), second: second.clone() }
        }
        Error::UnknownParameter { parameter, backend, known } => {
            Error::UnknownParameter { parameter: parameter.clone(), backend: backend.clone(), known: known.clone() }
        }
        Error::NoneAnswered { attempts } => {
            let copied = |(backend, error): &(String, Error)| (backend.clone(), copy(error));
            Error::NoneAnswered { attempts: attempts.iter().map(copied).collect() }
        }
        Error::Unavailable { context, .. } => Error::unavailable(&context.reason),
        Error::Indeterminate { context, .. } => Error::indeterminate(&context.reason),
        Error::PermissionDenied { context, .. } => Error::permission_denied(&context.reason),
        Error::StorageFull { context, .. } => Error::storage_full(&context.reason),
        Error::UnexpectedAnswer { context, .. } => Error::unexpected_answer(&context.reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_outcome_is_indeterminate_only_for_what_must_not_be_repeated() {
        let limit = Duration::from_secs(5);
        assert!(matches!(Idempotence::Repeatable.late(limit), Error::Unavailable { .. }));
        let error = Idempotence::Once.late(limit);
        assert!(matches!(&error, Error::Indeterminate { .. }));
        assert!(error.to_string().contains("no answer within 5s"), "{error}");
        assert!(Idempotence::Repeatable.is_repeatable() && !Idempotence::Once.is_repeatable());
    }

    #[test]
    fn a_copy_says_what_the_original_says() {
        let errors = [
            Error::NotFound { key: "a".into() },
            Error::conflict("a", 0),
            Error::conflict("a", 7),
            Error::Lost { key: "a".into() },
            Error::Closed { key: "a".into() },
            Error::LeftToLapse { keys: vec!["a".into()], reason: "gone".into(), within: Duration::from_secs(1) },
            Error::InvalidKey { key: "a".into(), reason: "what".into() },
            Error::ValueTooLarge { key: "a".into(), bytes: 2, max: 1 },
            Error::TxnTooLarge { operations: 1, bytes: 2, max_operations: 3, max_bytes: 4 },
            Error::OverlappingWrites { key: "a".into() },
            Error::ForeignLock { key: "a".into(), held: "memory", backend: "etcd" },
            Error::InvalidTtl { ttl: Duration::ZERO, min: Duration::from_secs(1), max: Duration::MAX },
            Error::Compacted { after: 1, oldest: Some(2) },
            Error::UnknownScheme { scheme: "a".into(), known: vec!["b".into()] },
            Error::DuplicateScheme { scheme: "a".into(), first: "b".into(), second: "c".into() },
            Error::UnknownParameter { parameter: "a".into(), backend: "b".into(), known: vec![] },
            Error::NoneAnswered { attempts: vec![("a".into(), Error::unavailable("gone"))] },
            Error::unavailable("gone"),
            Error::indeterminate("gone"),
            Error::permission_denied("no"),
            Error::storage_full("no room"),
            Error::unexpected_answer("what"),
            Error::invalid_address("what"),
        ];
        for error in errors {
            let copied = copy(&error);
            assert_eq!(std::mem::discriminant(&copied), std::mem::discriminant(&error), "{error}");
            assert_eq!(copied.to_string(), error.to_string());
        }
    }
}
