//! The state that all parts of the backend share.

use std::sync::Arc;

use kv_core::backend::Snapshot;
use kv_core::{Error, Result};

use crate::api::range::Range;
use crate::config::Config;
use crate::error::Failed;
use crate::lease::Leases;
use crate::lease::lock::Locks;
use crate::read::Reader;
use crate::read::paging::Pager;
use crate::transport::client::Client;
use crate::txn::Writer;
use crate::watch::{Hubs, Visible};

/// The parts of a backend.
///
/// Each of them works from any runtime. What has tasks or connections exists once for each runtime, so that no call
/// depends on another runtime being alive or driven ([clause S1](kv_core::contract::CLAUSES#S1)).
pub(crate) struct Shared {
    pub(crate) client: Arc<Client>,
    pub(crate) reader: Reader,
    pub(crate) writer: Writer,
    pub(crate) leases: Arc<Leases>,
    pub(crate) locks: Locks,
    hubs: Arc<Hubs>,
}

impl Shared {
    pub(crate) fn new(config: Config) -> Self {
        let client = Arc::new(Client::new(config));
        let (leases, hubs) = (Arc::new(Leases::new(&client)), Arc::new(Hubs::new(&client)));
        let (pager, large) = (Arc::new(Pager::new(&client)), Arc::default());
        Self {
            reader: Reader::new(&client, &pager, &large),
            writer: Writer::new(&client, &large),
            locks: Locks::new(&leases, &hubs, &pager),
            leases,
            hubs,
            client,
        }
    }

    /// Opens a watch for everything after `after`; 0: for what happens after the call began.
    pub(crate) async fn watch(&self, prefix: &str, after: u64) -> Result<Visible> {
        let range = Range::prefix(prefix);
        // Fails at once if no endpoint will ever serve.
        self.client.connect().await.map_err(Failed::from)?;
        if after != 0 {
            return self.hubs.open(range, after).await;
        }
        // "Now" is the revision of the cluster, behind which the server of the watch may lag.
        let opening = self.hubs.open_now(range.clone());
        let ((events, begin), present) = tokio::try_join!(opening, self.reader.present(&range))?;
        Ok(self.hubs.after(events, begin.max(present)))
    }

    /// A snapshot, and a watch for everything after it.
    pub(crate) async fn observe(&self, prefix: &str) -> Result<(Snapshot, Visible)> {
        let range = Range::prefix(prefix);
        self.client.connect().await.map_err(Failed::from)?;
        loop {
            // Both are asked for at the same time. The watch mostly begins before the snapshot, which is the later
            // answer.
            let opening = self.hubs.open_now(range.clone());
            let ((events, begin), snapshot) = tokio::try_join!(opening, self.reader.list(prefix))?;
            // One that is behind already may have been compacted up to the snapshot, and begins better after it.
            if begin <= snapshot.index && !events.is_stopped() {
                let watch = self.hubs.after(events, snapshot.index);
                return Ok((snapshot, watch));
            }
            drop(events);
            match self.hubs.open(range.clone(), snapshot.index).await {
                // Compacted in between; there is a newer state to begin with.
                Err(Error::Compacted { .. }) => {}
                result => return Ok((snapshot, result?)),
            }
        }
    }
}
