//! What clients do while the store is being hurt: a workload a file, each of which says what it saw.

pub(super) mod bank;
pub(super) mod ephemeral;
pub(super) mod lock;
pub(super) mod register;
pub(super) mod watch;

use tokio::task::JoinSet;

use crate::case::{Broke, Outcome};

/// The tasks of a workload; the first that fails ends them all.
#[derive(Default)]
struct Clients<T = ()>(JoinSet<Outcome<T>>);

impl<T: Send + 'static> Clients<T> {
    fn spawn(&mut self, client: impl Future<Output = Outcome<T>> + Send + 'static) {
        self.0.spawn(client);
    }

    async fn join(mut self) -> Outcome<Vec<T>> {
        let mut results = Vec::new();
        while let Some(ended) = self.0.join_next().await {
            results.push(ended.unwrap_or_else(|panic| Err(Broke { clause: None, what: panic.to_string() }))?);
        }
        Ok(results)
    }
}
