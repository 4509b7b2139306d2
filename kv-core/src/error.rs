//! The error type of every backend. Each variant stands for a different reaction of the caller.

use std::fmt;
use std::time::Duration;

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

/// What a call found that is an [`Error::Conflict`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConflictKind {
    /// The key exists, and the call requires that it does not.
    Exists,
    /// The key is not at the index that the call requires: it has changed, or it does not exist.
    Changed,
    /// Another program uses the entry in which the store keeps the lock, so that the lock cannot be taken.
    Occupied {
        /// The complete key of that entry in the store.
        entry: String,
    },
}

impl ConflictKind {
    fn about(&self, key: &str) -> String {
        match self {
            Self::Exists => format!("key {key:?} exists already; nothing was changed: read it, then decide"),
            Self::Changed => format!(
                "key {key:?} has changed since it was read, or does not exist; nothing was changed: read it again, then \
                 decide"
            ),
            Self::Occupied { entry } => format!(
                "the lock on {key:?} was not taken: the entry {entry:?}, where the store keeps it, is in use for \
                 something else; remove that entry, or lock another name"
            ),
        }
    }
}

impl Error {
    /// Makes the [`Error::Conflict`] of a key that does not have the index that was required, which is 0 if it was not
    /// to exist.
    pub fn conflict(key: impl Into<String>, index: u64) -> Self {
        let kind = if index == 0 { ConflictKind::Exists } else { ConflictKind::Changed };
        Self::Conflict { key: key.into(), kind }
    }

    /// Makes an [`Error::Unavailable`]: the call was certainly not applied.
    pub fn unavailable(reason: impl Into<String>) -> Self {
        Self::Unavailable { context: Box::new(Context::new(reason)), source: None }
    }

    /// Makes an [`Error::Indeterminate`]: the write may or may not have been applied.
    pub fn indeterminate(reason: impl Into<String>) -> Self {
        Self::Indeterminate { context: Box::new(Context::new(reason)), source: None }
    }

    /// Makes an [`Error::PermissionDenied`].
    pub fn permission_denied(reason: impl Into<String>) -> Self {
        Self::PermissionDenied { context: Box::new(Context::new(reason)), source: None }
    }

    /// Makes an [`Error::StorageFull`].
    pub fn storage_full(reason: impl Into<String>) -> Self {
        Self::StorageFull { context: Box::new(Context::new(reason)), source: None }
    }

    /// Makes an [`Error::UnexpectedAnswer`].
    pub fn unexpected_answer(reason: impl Into<String>) -> Self {
        Self::UnexpectedAnswer { context: Box::new(Context::new(reason)), source: None }
    }

    /// Makes an [`Error::InvalidAddress`]; the reason must not quote what may be a secret.
    pub fn invalid_address(reason: impl Into<String>) -> Self {
        Self::InvalidAddress { reason: reason.into() }
    }

    /// Keeps the source of the error, in the variants that have one.
    #[must_use]
    pub fn with_source(mut self, below: impl Into<Source>) -> Self {
        if let Some((_, source)) = self.context_mut() {
            *source = Some(below.into());
        }
        self
    }

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

    /// What happened, without where it happened and without advice.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Unavailable { context, .. }
            | Self::Indeterminate { context, .. }
            | Self::PermissionDenied { context, .. }
            | Self::StorageFull { context, .. }
            | Self::UnexpectedAnswer { context, .. } => context.reason.clone(),
            other => other.to_string(),
        }
    }

    fn context_mut(&mut self) -> Option<(&mut Context, &mut Option<Source>)> {
        match self {
            Self::Unavailable { context, source }
            | Self::Indeterminate { context, source }
            | Self::PermissionDenied { context, source }
            | Self::StorageFull { context, source }
            | Self::UnexpectedAnswer { context, source } => Some((&mut **context, source)),
            _ => None,
        }
    }

    /// Adds to a backend's error where it arose, in the caller's terms ([clause K4](crate::contract::CLAUSES#K4)). Errors
    /// are completed nowhere else.
    ///
    /// There is no wildcard: a new variant must say here whether it names keys.
    pub(crate) fn located(mut self, backend: &str, operation: &str, key: &str, root: &str) -> Self {
        match &mut self {
            Self::NotFound { key }
            | Self::Conflict { key, .. }
            | Self::Lost { key }
            | Self::Closed { key }
            | Self::InvalidKey { key, .. }
            | Self::ValueTooLarge { key, .. }
            | Self::OverlappingWrites { key }
            | Self::ForeignLock { key, .. } => make_relative(key, root),
            Self::LeftToLapse { keys, .. } => keys.iter_mut().for_each(|key| make_relative(key, root)),
            Self::Unavailable { context, .. }
            | Self::Indeterminate { context, .. }
            | Self::PermissionDenied { context, .. }
            | Self::StorageFull { context, .. }
            | Self::UnexpectedAnswer { context, .. } => {
                backend.clone_into(&mut context.backend);
                operation.clone_into(&mut context.operation);
                key.clone_into(&mut context.key);
            }
            Self::TxnTooLarge { .. }
            | Self::InvalidTtl { .. }
            | Self::Compacted { .. }
            | Self::InvalidAddress { .. }
            | Self::UnknownScheme { .. }
            | Self::DuplicateScheme { .. }
            | Self::UnknownParameter { .. }
            | Self::NoneAnswered { .. } => {}
        }
        self
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

/// Where a call failed and why: the backend, the operation, the key, and the reason.
///
/// A backend gives the reason; [`Kv`](crate::Kv) adds the rest. An error holds it in a box, so that results that are no
/// error stay small: they are copied with each step of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Context {
    /// The name of the backend, or empty outside a [`Kv`](crate::Kv).
    pub backend: String,
    /// The operation, such as `get`, or empty outside a [`Kv`](crate::Kv).
    pub operation: String,
    /// The key, prefix or directory of the operation, or empty.
    pub key: String,
    /// What happened.
    pub reason: String,
}

impl Context {
    fn new(reason: impl Into<String>) -> Self {
        Self { backend: String::new(), operation: String::new(), key: String::new(), reason: reason.into() }
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.backend.is_empty() {
            write!(f, "{} {}", self.backend, self.operation)?;
            if !self.key.is_empty() {
                write!(f, " {:?}", self.key)?;
            }
            f.write_str(": ")?;
        }
        f.write_str(&self.reason)
    }
}

fn make_relative(key: &mut String, root: &str) {
    if key.starts_with(root) {
        key.drain(..root.len());
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
