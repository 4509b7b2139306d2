//! Watches: how they are opened, and the events that a consumer sees.

mod deleted;
mod entry;
mod events;
mod gauge;
mod hub;
pub(crate) mod reassembly;
mod stream;
mod visible;

use std::sync::Arc;

use kv_core::Result;
use kv_core::backend::runtime::PerRuntime;

use events::Events;
use hub::Hub;
pub(crate) use visible::Visible;

use crate::api::range::{Range, signed};
use crate::transport::client::Client;

/// Opens watches, with one hub for each runtime. A watch ends with the runtime in which it was opened.
pub(crate) struct Hubs {
    client: Arc<Client>,
    hubs: PerRuntime<Hub>,
}

impl Hubs {
    pub(crate) fn new(client: &Arc<Client>) -> Self {
        Self { client: Arc::clone(client), hubs: PerRuntime::new() }
    }

    /// Opens a watch on the data of a range, for all changes after `after`; returns once the server has confirmed it.
    pub(crate) async fn open(&self, range: Range, after: u64) -> Result<Visible> {
        let events = self.hub().open(range, signed(after.saturating_add(1))).await?;
        Ok(Visible::new(events, &self.client, after))
    }

    /// Opens a watch on every key of a range, entries of locks included, from the server's revision on; returns once the
    /// server has confirmed it.
    ///
    /// What the range holds has to be read afterwards: the server may lag behind the cluster. Such a watch is served at
    /// once. One that begins in the past waits for a loop of the server that runs every 100 ms.
    pub(crate) async fn open_now(&self, range: Range) -> Result<Events> {
        self.hub().open(range, 0).await
    }

    fn hub(&self) -> Arc<Hub> {
        self.hubs.get(|| Hub::start(Arc::clone(&self.client)))
    }
}
