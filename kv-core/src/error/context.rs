//! Where an error arose.

use std::fmt;

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
    pub(super) fn new(reason: impl Into<String>) -> Self {
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
