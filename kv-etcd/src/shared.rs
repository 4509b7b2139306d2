//! The state that all parts of the backend share.

use std::sync::Arc;

use kv_core::Result;

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

    pub(crate) async fn watch(&self, prefix: &str, after: u64) -> Result<Visible> {
        let range = Range::prefix(prefix);
        // "Now" is the revision of the cluster. A member that lags behind would begin a watch without a revision in the
        // past. The read also fails at once if the cluster cannot be reached.
        let after = if after == 0 { self.reader.present(&range).await? } else { after };
        self.client.connect().await.map_err(Failed::from)?;
        self.hubs.open(range, after).await
    }
}
