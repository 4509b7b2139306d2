//! What one handle knows of the store's past. Consul itself keeps no history.

use super::moments::Moments;
use super::recent::Recent;

/// What one handle knows of the store's past, from all its runtimes.
#[derive(Default)]
pub(crate) struct History {
    pub(crate) recent: Recent,
    pub(crate) moments: Moments,
}
