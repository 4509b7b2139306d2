//! A session that holds nothing.

use std::sync::Arc;

use bytes::Bytes;
use hyper::StatusCode;
use kv_core::Result;
use kv_core::backend::background::Background;
use kv_core::backend::fate::Idempotence;
use kv_core::clock::Moment;

use crate::transport::clients::Clients;

/// A session that nobody relies on. Dropping it destroys it in the background.
pub(crate) struct SpareSession {
    clients: Arc<Clients>,
    background: Background,
    /// None once somebody has it.
    id: Option<String>,
    /// When its time to live last began.
    pub(super) since: Moment,
}

impl SpareSession {
    pub(super) fn new(clients: &Arc<Clients>, background: &Background, id: String, since: Moment) -> Self {
        Self { clients: Arc::clone(clients), background: background.clone(), id: Some(id), since }
    }

    /// Its identifier, for whoever relies on it from now on.
    pub(super) fn into_id(mut self) -> Option<String> {
        self.id.take()
    }
}

impl Drop for SpareSession {
    fn drop(&mut self) {
        let Some(id) = self.id.take() else { return };
        let clients = Arc::clone(&self.clients);
        // Without a runtime nothing can be sent, and the time to live ends the session.
        self.background.spawn(async move {
            if let Err(error) = destroy(&clients, &id).await {
                tracing::debug!(%error, "an unused session could not be destroyed; its time to live ends it");
            }
        });
    }
}

/// Ends a session, and with it all that it holds. It is no error if the session has ended before.
async fn destroy(clients: &Clients, id: &str) -> Result<()> {
    let client = clients.current()?;
    let target = client.target(&format!("/v1/session/destroy/{id}"), &[]);
    let answer = client.put(target, Bytes::new(), Idempotence::Repeatable).await?;
    if answer.status == StatusCode::OK { Ok(()) } else { Err(answer.unexpected()) }
}
