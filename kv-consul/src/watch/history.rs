//! What one handle knows of the store's past. Consul itself keeps no history.

use super::moments::Moments;
use super::recent::Recent;

/// What one handle knows of the store's past, in whatever runtime it learned it.
#[derive(Default)]
pub(crate) struct History {
    pub(crate) recent: Recent,
    pub(crate) moments: Moments,
}
