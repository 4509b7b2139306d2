//! The error type of every backend. Each variant stands for a different reaction of the caller.

mod conflict;
mod constructors;
mod context;

use std::fmt;
use std::time::Duration;

pub use self::conflict::ConflictKind;
pub use self::context::Context;

/// The result of every call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The source of an [`Error`]: what the transport or the store's client reported.
pub type Source = Box<dyn std::error::Error + Send + Sync>;

/// What can go wrong, the same for every backend ([clause A5](crate::contract::CLAUSES#A5)).
///
/// No variant ever holds a password, a token or the address as it was written
/// ([clause A4](crate::contract::CLAUSES#A4)). Keys are those the caller used: without the root of the handle.
///
/// `Debug` says what `Display` says, because `unwrap` and a `main` that returns the error show it. `{:#?}` adds the
/// sources.
///
/// ```
/// # use kv_core::Error;
/// fn advice(error: &Error) -> &'static str {
///     match error {
///         error if error.is_key_not_found() => "use the default",
///         error if error.is_conflict() => "read again, then decide",
///         error if error.is_lost() => "stop at once: somebody else may own it now",
///         error if error.is_retryable() => "nothing was applied: call again",
///         error if error.is_indeterminate() => "read before writing again",
///         _ => "tell the operator",
///     }
/// }
/// let missing = Error::NotFound { key: "config/port".into() };
/// assert_eq!(advice(&missing), "use the default");
/// ```
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The key does not exist.
    #[error("key {key:?} does not exist")]
    NotFound {
        /// The key that was asked for.
        key: String,
    },

    /// The key exists although the call creates it, or is not at the index that the call requires; nothing was changed.
    #[error("{}", kind.about(key))]
    Conflict {
        /// The key whose check failed; of several, one of them.
        key: String,
        /// What the call found there.
        kind: ConflictKind,
    },

    /// The lock or ephemeral key is no longer this handle's, and nothing was changed.
    #[error(
        "the lease on {key:?} is lost: it lapsed, was given back, or somebody else holds it; stop what it protects"
    )]
    Lost {
        /// The key of the lock or ephemeral key.
        key: String,
    },

    /// The handle was closed, so that it takes no locks and no ephemeral keys any more
    /// ([clause L12](crate::contract::CLAUSES#L12)); nothing was taken.
    #[error("{key:?} was not taken: the handle, or a clone of it, was closed; connect again to take it")]
    Closed {
        /// The key that was to be taken.
        key: String,
    },

    /// [`Kv::close`](crate::Kv::close) could not give back everything; the time to live frees what is left
    /// ([clause L12](crate::contract::CLAUSES#L12)).
    #[error(
        "not everything was given back ({reason}); left to the time to live, which has passed in {within:?} at the \
         latest: {}", left(.keys)
    )]
    LeftToLapse {
        /// The keys of the locks and ephemeral keys that are left, sorted. Empty if it is not known which are left.
        keys: Vec<String>,
        /// When all of it has lapsed at the latest, with [`Limits::expiry_lag`](crate::Limits::expiry_lag) and from
        /// now.
        within: Duration,
        /// What happened.
        reason: String,
    },

    /// The key, prefix or directory is not one that every store can hold (clauses [K1](crate::contract::CLAUSES#K1) and
    /// [K2](crate::contract::CLAUSES#K2)); nothing was sent.
    #[error("invalid key {key:?}: {reason}")]
    InvalidKey {
        /// The key as it was given.
        key: String,
        /// Which rule it breaks.
        reason: String,
    },

    /// The value is larger than the store takes ([clause K3](crate::contract::CLAUSES#K3)); nothing was sent, and the
    /// old value stands.
    #[error("the value for {key:?} has {bytes} bytes, over the store's limit of {max}")]
    ValueTooLarge {
        /// The key that was to be written.
        key: String,
        /// The size of the value, in bytes.
        bytes: usize,
        /// The limit, in bytes: [`Limits::value_bytes`](crate::Limits::value_bytes).
        max: usize,
    },

    /// The transaction is larger than the store takes ([clause W5](crate::contract::CLAUSES#W5)); nothing was applied.
    #[error(
        "the transaction has {operations} checks and operations with {bytes} bytes of keys and values, over the \
         store's limit of {max_operations} and {max_bytes} bytes: split it"
    )]
    TxnTooLarge {
        /// Checks and operations together; a deleted directory counts as two.
        operations: usize,
        /// Keys and values together, in bytes.
        bytes: usize,
        /// The limit: [`Limits::txn_ops`](crate::Limits::txn_ops).
        max_operations: usize,
        /// The limit, in bytes: [`Limits::txn_bytes`](crate::Limits::txn_bytes).
        max_bytes: usize,
    },

    /// Two operations of one transaction write the same key ([clause W5](crate::contract::CLAUSES#W5)); nothing was
    /// sent.
    #[error("two operations of one transaction write {key:?}: leave one of them")]
    OverlappingWrites {
        /// The key or directory that is written twice.
        key: String,
    },

    /// The lock that should guard a transaction is of another store ([clause L5](crate::contract::CLAUSES#L5)); nothing
    /// was sent.
    #[error(
        "the lock on {key:?} is held in a store of {held}, and the transaction is for one of {backend}: guard it with a \
         lock of the store that it writes"
    )]
    ForeignLock {
        /// The key of the lock.
        key: String,
        /// The backend that holds the lock.
        held: &'static str,
        /// The backend that was to write.
        backend: &'static str,
    },

    /// The time to live is outside what the store takes ([clause L3](crate::contract::CLAUSES#L3)); nothing was sent.
    #[error("a time to live of {ttl:?} is outside what the store takes: {min:?} to {max:?}")]
    InvalidTtl {
        /// The time to live that was asked for.
        ttl: Duration,
        /// The shortest that the store takes.
        min: Duration,
        /// The longest that the store takes.
        max: Duration,
    },

    /// The events after an index are no longer known to the store ([clause E1](crate::contract::CLAUSES#E1)); list
    /// again, and watch from there.
    #[error(
        "the events after index {after} are gone from the store's history{}: use observe, or list again",
        .oldest.map(|oldest| format!(" (it begins after {oldest})")).unwrap_or_default()
    )]
    Compacted {
        /// The index to be watched from.
        after: u64,
        /// The smallest index that can still be watched from, where the store tells.
        oldest: Option<u64>,
    },

    /// The store could not be reached or could not serve, and the call was certainly not applied
    /// ([clause W6](crate::contract::CLAUSES#W6)).
    #[error("{context}; nothing was applied: try again")]
    Unavailable {
        /// What was tried, and what happened.
        context: Box<Context>,
        /// The source of the error.
        source: Option<Source>,
    },

    /// The fate of a write is unknown: it may or may not have been applied ([clause W6](crate::contract::CLAUSES#W6)).
    #[error("{context}; it may or may not have been applied: read before writing again")]
    Indeterminate {
        /// What was tried, and what happened.
        context: Box<Context>,
        /// The source of the error.
        source: Option<Source>,
    },

    /// The store refuses the call, because of who asks or what is asked; nothing was applied.
    #[error("{context}; check the credentials and what they may do")]
    PermissionDenied {
        /// What was tried, and what the store said.
        context: Box<Context>,
        /// The source of the error.
        source: Option<Source>,
    },

    /// The store has no room left and takes no writes until an operator makes some; this one was not applied.
    #[error("{context}; nothing was applied, and no write will be until the store has room again")]
    StorageFull {
        /// What was tried, and what the store said.
        context: Box<Context>,
        /// The error below.
        source: Option<Source>,
    },

    /// The answer makes no sense for this kind of store: wrong service, wrong version, or a corrupt store.
    #[error("{context}; is this the right kind of server?")]
    UnexpectedAnswer {
        /// What was tried, and what came back.
        context: Box<Context>,
        /// The source of the error.
        source: Option<Source>,
    },

    /// The address cannot be read, or asks for what the store cannot do ([clause A1](crate::contract::CLAUSES#A1)).
    #[error("invalid address: {reason}")]
    InvalidAddress {
        /// What is wrong with it; never the address itself, which may hold a password.
        reason: String,
    },

    /// No registered backend has the address's scheme ([clause A3](crate::contract::CLAUSES#A3)).
    #[error(
        "no backend is registered for `{scheme}://`; registered: {}. Is the line that links its crate missing, such as \
         `use kv_etcd as _;`?", list(.known)
    )]
    UnknownScheme {
        /// The scheme of the address.
        scheme: String,
        /// The schemes that are registered, sorted.
        known: Vec<String>,
    },

    /// Two registered backends claim one scheme.
    #[error("scheme `{scheme}` is registered twice, by `{first}` and by `{second}`: link one of them only")]
    DuplicateScheme {
        /// The scheme that both claim.
        scheme: String,
        /// The name of the one backend.
        first: String,
        /// The name of the other.
        second: String,
    },

    /// The address has a parameter that its backend does not know ([clause A1](crate::contract::CLAUSES#A1)).
    #[error("address parameter `{parameter}` is not known to {backend}; known: {}", list(.known))]
    UnknownParameter {
        /// The parameter's name.
        parameter: String,
        /// The backend that was to be connected to.
        backend: String,
        /// The parameters that it knows, sorted.
        known: Vec<String>,
    },

    /// No backend answered at a generic address (`http://`, `https://` or empty).
    #[error("no backend answered: {}", said(.attempts))]
    NoneAnswered {
        /// Each backend that was tried, with what it said, in the order tried.
        attempts: Vec<(String, Error)>,
    },
}

impl Error {
    /// Whether the key does not exist.
    pub fn is_key_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether a check did not hold, so that nothing was changed.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }

    /// Whether a lock or ephemeral key is no longer the handle's.
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Lost { .. })
    }

    /// Whether the same call may simply be made again: it was certainly not applied, and may succeed later.
    ///
    /// [`Error::Indeterminate`] is not retryable: a write that may have been applied must be looked at first.
    /// [`Error::NoneAnswered`] is if what every backend said is.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable { .. } => true,
            Self::NoneAnswered { attempts } => {
                !attempts.is_empty() && attempts.iter().all(|(_, error)| error.is_retryable())
            }
            _ => false,
        }
    }

    /// Whether a write may or may not have been applied, so that it must be looked at before it is repeated.
    pub fn is_indeterminate(&self) -> bool {
        matches!(self, Self::Indeterminate { .. })
    }

    /// Whether the events after an index are gone, so that a watch must start again with a listing.
    pub fn is_compacted(&self) -> bool {
        matches!(self, Self::Compacted { .. })
    }

    /// Whether the store refuses the call because of who asks or what is asked.
    pub fn is_permission_denied(&self) -> bool {
        matches!(self, Self::PermissionDenied { .. })
    }

    /// The variant's name, as spans and events show it.
    pub(crate) fn outcome(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "not_found",
            Self::Conflict { .. } => "conflict",
            Self::Lost { .. } => "lost",
            Self::Closed { .. } => "closed",
            Self::LeftToLapse { .. } => "left_to_lapse",
            Self::InvalidKey { .. } => "invalid_key",
            Self::ValueTooLarge { .. } => "value_too_large",
            Self::TxnTooLarge { .. } => "txn_too_large",
            Self::OverlappingWrites { .. } => "overlapping_writes",
            Self::ForeignLock { .. } => "foreign_lock",
            Self::InvalidTtl { .. } => "invalid_ttl",
            Self::Compacted { .. } => "compacted",
            Self::Unavailable { .. } => "unavailable",
            Self::Indeterminate { .. } => "indeterminate",
            Self::PermissionDenied { .. } => "permission_denied",
            Self::StorageFull { .. } => "storage_full",
            Self::UnexpectedAnswer { .. } => "unexpected_answer",
            Self::InvalidAddress { .. } => "invalid_address",
            Self::UnknownScheme { .. } => "unknown_scheme",
            Self::DuplicateScheme { .. } => "duplicate_scheme",
            Self::UnknownParameter { .. } => "unknown_parameter",
            Self::NoneAnswered { .. } => "none_answered",
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        let mut below = std::error::Error::source(self).filter(|_| f.alternate());
        while let Some(error) = below {
            write!(f, "\ncaused by: {error}")?;
            below = error.source();
        }
        Ok(())
    }
}

fn left(keys: &[String]) -> String {
    if keys.is_empty() { "what calls that were given up had taken".to_owned() } else { keys.join(", ") }
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn said(attempts: &[(String, Error)]) -> String {
    if attempts.is_empty() {
        return "no registered backend speaks HTTP. Is the line that links one missing, such as `use kv_etcd as _;`?"
            .to_owned();
    }
    let said: Vec<String> = attempts.iter().map(|(backend, error)| format!("{backend} said: {error}")).collect();
    said.join("; ")
}

#[cfg(test)]
mod tests;
