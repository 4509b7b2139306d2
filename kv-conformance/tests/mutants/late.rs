//! Leases that are released later than they report.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kv_core::Result;
use kv_core::backend::Lease;

/// How long after its report these stores release a lease.
pub(crate) const LATE: Duration = Duration::from_secs(1);

/// A lease that is released some time after it reports so.
pub(crate) struct ReleasedLate(Arc<dyn Lease>);

impl ReleasedLate {
    pub(crate) fn new(lease: Box<dyn Lease>) -> Self {
        Self(lease.into())
    }
}

#[async_trait]
impl Lease for ReleasedLate {
    async fn renew(&self) -> Result<()> {
        self.0.renew().await
    }

    async fn set(&self, data: Bytes) -> Result<u64> {
        self.0.set(data).await
    }

    async fn release(&self) -> Result<()> {
        let lease = self.0.clone();
        tokio::spawn(async move {
            tokio::time::sleep(LATE).await;
            lease.release().await
        });
        Ok(())
    }
}
