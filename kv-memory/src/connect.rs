//! Addresses, and the stores that share a name.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use kv_core::backend::{Address, Backend};
use kv_core::{Error, Registration, Result};

use crate::backend::MemoryBackend;
use crate::history::History;
use crate::shared::Shared;

/// Registers this backend with an explicit [`Registry`](kv_core::Registry).
pub const REGISTRATION: Registration = Registration {
    name: "memory",
    schemes: &["memory"],
    parameters: &["history"],
    named: true,
    generic_http: false,
    connect: |address| Box::pin(std::future::ready(connect(&address))),
};

kv_core::register!(REGISTRATION);

/// The stores that have a name, for as long as a handle, a lease or a watch uses them.
static NAMED: LazyLock<Mutex<HashMap<String, Weak<Shared>>>> = LazyLock::new(Mutex::default);

fn connect(address: &Address) -> Result<Arc<dyn Backend>> {
    if address.credentials.is_some() {
        return Err(Error::invalid_address("a memory store has no users: remove the credentials"));
    }
    let history = match address.number("history")? {
        Some(0) => return Err(Error::invalid_address("parameter `history` is zero: watches need at least one event")),
        Some(number) => Some(usize::try_from(number).unwrap_or(usize::MAX)),
        None => None,
    };
    let shared = match address.hosts.as_slice() {
        [] => Shared::new(history.unwrap_or(History::DEFAULT_EVENTS)),
        [name] if name.port.is_none() => named(&name.host, history)?,
        _ => return Err(Error::invalid_address("a memory store has one name and no port: `memory://NAME/root`")),
    };
    Ok(Arc::new(MemoryBackend::of(shared)))
}

fn named(name: &str, history: Option<usize>) -> Result<Arc<Shared>> {
    let mut stores = NAMED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(store) = stores.get(name).and_then(Weak::upgrade) {
        let kept = store.history_limit();
        return match history {
            Some(asked) if asked != kept => {
                Err(Error::invalid_address(format!("store `{name}` exists already, with `history={kept}`")))
            }
            _ => Ok(store),
        };
    }
    stores.retain(|_, store| store.strong_count() > 0);
    let store = Shared::new(history.unwrap_or(History::DEFAULT_EVENTS));
    stores.insert(name.to_owned(), Arc::downgrade(&store));
    Ok(store)
}
