//! The clients of all runtimes that use one handle.

use std::sync::Arc;

use kv_core::Result;
use kv_core::backend::runtime::PerRuntime;

use super::budget::Budget;
use super::client::Client;
use super::health::Health;
use super::tls::Tls;
use crate::config::Config;

/// One [`Client`] for each tokio runtime that uses the handle ([clause S1](kv_core::contract::CLAUSES#S1)).
///
/// A connection belongs to the runtime that opened it, and is not read once that runtime has ended or is idle. The
/// health of the agents and the number of connections are shared.
pub(crate) struct Clients {
    config: Config,
    tls: Tls,
    health: Arc<Health>,
    budget: Budget,
    each: PerRuntime<Client>,
}

impl Clients {
    /// Reads certificates and keys; connects to nothing yet.
    ///
    /// # Errors
    /// [`kv_core::Error::InvalidAddress`] for a file that cannot be used or a host that no URL can name.
    pub(crate) fn new(config: Config) -> Result<Self> {
        let tls = Tls::read(&config)?;
        let health = Arc::new(Health::new(config.hosts.len()));
        let budget = Budget::new(config.connections);
        let clients = Self { config, tls, health, budget, each: PerRuntime::new() };
        // Creating a client here shows an error now instead of in the first call.
        clients.create()?;
        Ok(clients)
    }

    /// The current runtime's client.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub(crate) fn current(&self) -> Result<Arc<Client>> {
        self.each.try_get(|| self.create())
    }

    /// The current runtime's client, if there is one.
    pub(crate) fn existing(&self) -> Option<Arc<Client>> {
        self.each.current()
    }

    fn create(&self) -> Result<Client> {
        Client::new(&self.config, &self.tls, self.health.clone(), &self.budget)
    }
}

#[cfg(all(test, feature = "tls"))]
mod tests {
    use kv_core::backend::Address;
    use kv_core::{Environment, Error};

    use super::*;

    #[test]
    fn files_that_cannot_be_used_are_found_before_the_first_call() {
        for address in ["consuls://a?cert=/none", "consuls://a?ca=/none", "consuls://a?key=/none"] {
            let address = Address::parse(address, Environment::from([])).expect("an address");
            let result = Clients::new(Config::read(&address).expect("settings"));
            assert!(matches!(result, Err(Error::InvalidAddress { .. })));
        }
    }
}
