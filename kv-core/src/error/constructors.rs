//! Errors of a backend: it makes them with a reason, and the handle adds where they arose.

use super::conflict::ConflictKind;
use super::context::Context;
use super::{Error, Source};

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

fn make_relative(key: &mut String, root: &str) {
    if key.starts_with(root) {
        key.drain(..root.len());
    }
}
