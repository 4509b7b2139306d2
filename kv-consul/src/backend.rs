//! The trait `Backend`, implemented by the other files.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kv_core::backend::runtime::PerRuntime;
use kv_core::backend::{Backend, EventStream, Grant, Snapshot, Txn};
use kv_core::clock::Moment;
use kv_core::{Limits, Result, Value};

use crate::batch::{Transactions, Writes};
use crate::config::NAME;
use crate::keys;
use crate::lease::queue::Queues;
use crate::lease::{ephemeral_key, lock};
use crate::read;
use crate::shared::Shared;
use crate::txn;
use crate::watch::history::History;
use crate::watch::hub::Hub;

/// The backend for the agents of one datacenter, usable from any number of runtimes.
pub(crate) struct Consul {
    shared: Arc<Shared>,
    history: History,
    parts: PerRuntime<Parts>,
}

/// The parts that run tasks or make callers wait for one another. Each runtime has its own, so that none depends on
/// another one being alive or driven ([clause S1](kv_core::contract::CLAUSES#S1)).
struct Parts {
    writes: Writes,
    hub: Hub,
    queues: Queues,
}

impl Consul {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, history: History::default(), parts: PerRuntime::new() }
    }

    /// The parts of the current runtime.
    fn parts(&self) -> Result<Arc<Parts>> {
        self.parts.try_get(|| {
            Ok(Parts {
                writes: Writes::new(Transactions { shared: self.shared.clone() }),
                hub: Hub::new(self.shared.clone())?,
                queues: Queues::default(),
            })
        })
    }
}

#[async_trait]
impl Backend for Consul {
    fn name(&self) -> &'static str {
        NAME
    }

    fn limits(&self) -> Limits {
        self.shared.limits
    }

    async fn ping(&self) -> Result<()> {
        let asked = Moment::now();
        if let Some(index) = read::ping(&*self.shared.client()?).await? {
            self.history.moments.note(asked, index);
        }
        Ok(())
    }

    async fn get(&self, key: &str) -> Result<Value> {
        read::get(&*self.shared.client()?, key).await
    }

    async fn list(&self, prefix: &str) -> Result<Snapshot> {
        let (snapshot, state) = read::list(&self.shared, prefix).await?;
        self.history.recent.remember(prefix, snapshot.index, Arc::new(state));
        Ok(snapshot)
    }

    async fn keys(&self, prefix: &str) -> Result<Vec<String>> {
        keys::keys(&self.shared, prefix).await
    }

    async fn commit(&self, txn: Txn) -> Result<Option<u64>> {
        let asked = Moment::now();
        let index = txn::commit(&self.parts()?.writes, txn).await?;
        if let Some(index) = index {
            self.history.moments.note(asked, index);
        }
        Ok(index)
    }

    async fn watch(&self, prefix: &str, after: u64) -> Result<EventStream> {
        let watch = self.parts()?.hub.watch(&self.history, prefix, after).await?;
        Ok(Box::pin(watch))
    }

    async fn observe(&self, prefix: &str) -> Result<(Snapshot, EventStream)> {
        let (snapshot, watch) = self.parts()?.hub.observe(&self.history, prefix).await?;
        Ok((snapshot, Box::pin(watch)))
    }

    async fn ephemeral_key(&self, key: &str, ttl: Duration) -> Result<Grant> {
        ephemeral_key::ephemeral_key(&self.shared, key, ttl).await
    }

    async fn lock(&self, key: &str, ttl: Duration) -> Result<Grant> {
        let parts = self.parts()?;
        lock::lock(&self.shared, &parts.hub, &parts.queues, key, ttl).await
    }

    async fn close(&self) -> Result<()> {
        self.shared.background.settled().await;
        Ok(())
    }

    async fn try_lock(&self, key: &str, ttl: Duration) -> Result<Option<Grant>> {
        lock::try_lock(&self.shared, &self.parts()?.queues, key, ttl).await
    }
}
