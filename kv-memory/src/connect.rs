//! Addresses, and the stores that share a name.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use kv_core::backend::{Address, Backend};
use kv_core::{Error, ForeignWrite, Registration, Result};

use crate::backend::MemoryBackend;
use crate::options::Options;
use crate::shared::Shared;

/// Registers this backend with an explicit [`Registry`](kv_core::Registry).
pub const REGISTRATION: Registration = Registration {
    name: "memory",
    schemes: &["memory"],
    parameters: &["history", "foreign-write"],
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
    let asked = Asked::read(address)?;
    let shared = match address.hosts.as_slice() {
        [] => Shared::new(asked.options()),
        [name] if name.port.is_none() => named(&name.host, &asked)?,
        _ => return Err(Error::invalid_address("a memory store has one name and no port: `memory://NAME/root`")),
    };
    Ok(Arc::new(MemoryBackend::of(shared)))
}

/// What an address asks for; `None` for what it leaves open.
struct Asked {
    history: Option<usize>,
    foreign_write: Option<ForeignWrite>,
}

impl Asked {
    fn read(address: &Address) -> Result<Self> {
        let history = match address.number("history")? {
            Some(0) => {
                return Err(Error::invalid_address("parameter `history` is zero: watches need at least one event"));
            }
            Some(number) => Some(usize::try_from(number).unwrap_or(usize::MAX)),
            None => None,
        };
        let foreign_write = match address.parameter("foreign-write") {
            Some("keeps") => Some(ForeignWrite::Keeps),
            Some("detaches") => Some(ForeignWrite::Detaches),
            Some(_) => {
                return Err(Error::invalid_address("parameter `foreign-write` is neither `keeps` nor `detaches`"));
            }
            None => None,
        };
        Ok(Self { history, foreign_write })
    }

    fn options(&self) -> Options {
        let default = Options::default();
        Options {
            history: self.history.unwrap_or(default.history),
            foreign_write: self.foreign_write.unwrap_or(default.foreign_write),
        }
    }

    /// Whether a store with these options has what the address asks for.
    fn is_met_by(&self, options: Options) -> bool {
        self.history.is_none_or(|asked| asked == options.history)
            && self.foreign_write.is_none_or(|asked| asked == options.foreign_write)
    }
}

fn named(name: &str, asked: &Asked) -> Result<Arc<Shared>> {
    let mut stores = NAMED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(store) = stores.get(name).and_then(Weak::upgrade) {
        if asked.is_met_by(store.options) {
            return Ok(store);
        }
        let Options { history, foreign_write } = store.options;
        let foreign_write = match foreign_write {
            ForeignWrite::Keeps => "keeps",
            ForeignWrite::Detaches => "detaches",
        };
        return Err(Error::invalid_address(format!(
            "store `{name}` exists already, with `history={history}&foreign-write={foreign_write}`"
        )));
    }
    stores.retain(|_, store| store.strong_count() > 0);
    let store = Shared::new(asked.options());
    stores.insert(name.to_owned(), Arc::downgrade(&store));
    Ok(store)
}
