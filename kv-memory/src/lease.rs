//! A lease as its handle sees it.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use kv_core::backend::Lease;
use kv_core::clock::Moment;
use kv_core::{Error, Result};
use tokio::time::Instant;

use crate::leases::LeaseId;
use crate::shared::Shared;

/// A lease on a key or a lock, or a place in the queue for a lock. Dropping it ends it.
pub(crate) struct MemoryLease {
    pub(crate) shared: Arc<Shared>,
    pub(crate) key: String,
    pub(crate) id: LeaseId,
}

impl MemoryLease {
    fn lost(&self) -> Error {
        Error::Lost { key: self.key.clone() }
    }
}

#[async_trait]
impl Lease for MemoryLease {
    async fn renew(&self) -> Result<()> {
        let renewed = self.shared.write().renew(self.id, Instant::now());
        if renewed { Ok(()) } else { Err(self.lost()) }
    }

    async fn set(&self, data: Bytes) -> Result<u64> {
        let mut state = self.shared.write();
        if !state.renew(self.id, Instant::now()) {
            return Err(self.lost());
        }
        // A copy: it may be a small part of a large buffer.
        state.set_leased(self.id, &self.key, Bytes::copy_from_slice(&data))
    }

    async fn release(&self) -> Result<()> {
        let ended = self.shared.write().end(self.id, Moment::now());
        if ended { Ok(()) } else { Err(self.lost()) }
    }

    fn is_given_back_on_drop(&self) -> bool {
        true
    }
}

impl Drop for MemoryLease {
    fn drop(&mut self) {
        let mut state = self.shared.write();
        if !state.end(self.id, Moment::now()) {
            state.leave(&self.key, self.id);
        }
    }
}
