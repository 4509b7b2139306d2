//! Watches: opening them, and the stream of events that a consumer sees.

mod entry;
mod events;
mod gauge;
mod hub;
pub(crate) mod reassembly;
mod stream;

use std::sync::Arc;

use kv_core::Result;
use kv_core::backend::runtime::PerRuntime;

pub(crate) use events::Events;
use hub::Hub;

use crate::api::range::Range;
use crate::transport::client::Client;

/// Opens watches; each runtime has a hub of its own, and a watch ends with the runtime that it was opened in.
pub(crate) struct Hubs {
    client: Arc<Client>,
    hubs: PerRuntime<Hub>,
}

impl Hubs {
    pub(crate) fn new(client: &Arc<Client>) -> Self {
        Self { client: Arc::clone(client), hubs: PerRuntime::new() }
    }

    /// Opens a watch for everything after `after`; returns once the server has confirmed it.
    pub(crate) async fn open(&self, range: Range, after: u64) -> Result<Events> {
        self.hubs.get(|| Hub::start(Arc::clone(&self.client))).open(range, after).await
    }
}
