//! The registered backends, and how an address finds its own (clauses [A1](crate::contract::CLAUSES#A1) to
//! [A3](crate::contract::CLAUSES#A3)).

use std::time::Duration;

use crate::backend::call::bounded;
use crate::backend::fate::Idempotence;
use crate::backend::{Address, Connecting};
use crate::{Environment, Error, Kv, Result};

/// What a backend registers: its name, the addresses it serves, and how it connects.
#[derive(Debug, Clone, Copy)]
pub struct Registration {
    /// The backend's name, such as `etcd`.
    pub name: &'static str,
    /// The schemes of its addresses, such as `etcd` and `etcds`.
    pub schemes: &'static [&'static str],
    /// The address parameters that it knows, besides `timeout`.
    pub parameters: &'static [&'static str],
    /// Whether its addresses name a store instead of hosts, as `memory://NAME` does:
    /// [`Address::parse_named`](crate::backend::Address::parse_named).
    pub named: bool,
    /// Whether it speaks HTTP, so that `http://`, `https://` and the empty address try it too.
    pub generic_http: bool,
    /// Connects: reads the address, and opens what is needed.
    ///
    /// The scheme is one of [`schemes`](Self::schemes), or, for a generic address, `http`, `https` or empty. An
    /// address without hosts means the backend's own default, its environment variables first. The backend takes
    /// the root as part of every key; it refuses one that its store cannot hold. The caller bounds the time, checks
    /// the names of the parameters, and pings.
    pub connect: fn(Address) -> Connecting,
}

inventory::collect!(Registration);

/// Registers a backend at link time, so that [`connect`](crate::connect) finds it in every program that links its
/// crate.
///
/// A crate that a program does not name is not linked, so programs contain `use kv_memory as _;`.
///
/// ```
/// # use kv_core::backend::{Address, Backend};
/// # use kv_core::{Error, Registration, Result};
/// # use std::sync::Arc;
/// # async fn open(address: Address) -> Result<Arc<dyn Backend>> { Err(Error::unavailable("a sketch")) }
/// /// Registers this backend where link-time registration is not wanted.
/// pub const REGISTRATION: Registration = Registration {
///     name: "sketch",
///     schemes: &["sketch"],
///     parameters: &[],
///     named: false,
///     generic_http: false,
///     connect: |address| Box::pin(open(address)),
/// };
/// kv_core::register!(REGISTRATION);
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! register {
    ($registration:expr) => {
        $crate::inventory::submit! { $registration }
    };
}

/// Connects to the store that an address names, through the backends linked into this program, and pings it.
///
/// The empty address, `http://` and `https://` are generic: each backend that speaks HTTP is tried in the order of
/// their names, at the address or at its own default, until one answers.
///
/// # Errors
/// [`Error::InvalidAddress`], [`Error::UnknownParameter`], [`Error::UnknownScheme`], [`Error::DuplicateScheme`],
/// [`Error::NoneAnswered`] for a generic address, and those [of every call](Kv#errors-of-every-call).
pub async fn connect(address: &str) -> Result<Kv> {
    Registry::linked().connect(address).await
}

/// A set of backends to connect through: those linked into the program, or those named one by one.
///
/// ```
/// # use kv_core::{Environment, Registry};
/// # async fn example() {
/// let error = Registry::new().connect("etcd://127.0.0.1").await.unwrap_err();
/// assert!(error.to_string().contains("use kv_etcd as _;"));
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Registry {
    registrations: Vec<Registration>,
    environment: Environment,
}

impl Registry {
    /// How long each backend has to answer at a generic address.
    const PROBE: Duration = Duration::from_secs(2);

    /// Starts without backends: add them with [`with`](Self::with).
    pub fn new() -> Self {
        Self::default()
    }

    /// Every backend linked into this program.
    pub fn linked() -> Self {
        let mut registrations: Vec<Registration> = inventory::iter::<Registration>().copied().collect();
        registrations.sort_by_key(|registration| registration.name);
        Self { registrations, environment: Environment::of_process() }
    }

    /// Adds a backend; it need not be registered at link time.
    #[must_use]
    pub fn with(mut self, registration: Registration) -> Self {
        self.registrations.push(registration);
        self.registrations.sort_by_key(|registration| registration.name);
        self
    }

    /// Looks up what an address leaves open in this environment instead of the process's.
    #[must_use]
    pub fn with_environment(mut self, environment: Environment) -> Self {
        self.environment = environment;
        self
    }

    /// The backends, in the order of their names.
    pub fn registrations(&self) -> &[Registration] {
        &self.registrations
    }

    /// Connects to the store that an address names, and pings it; see [`connect`](crate::connect).
    ///
    /// # Errors
    /// As [`connect`](crate::connect).
    pub async fn connect(&self, address: &str) -> Result<Kv> {
        self.refuse_duplicates()?;
        let scheme = address.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase()).unwrap_or_default();
        let registration = self.registrations.iter().find(|one| one.schemes.contains(&&*scheme));
        let parse = if registration.is_some_and(|one| one.named) { Address::parse_named } else { Address::parse };
        let address = parse(address, self.environment.clone())?;
        if let Some(registration) = registration {
            let timeout = address.timeout;
            return open(registration, address, timeout).await;
        }
        if !matches!(&*address.scheme, "" | "http" | "https") {
            let mut known: Vec<String> = self.schemes().map(|(scheme, _)| scheme.to_owned()).collect();
            known.sort_unstable();
            return Err(Error::UnknownScheme { scheme: address.scheme, known });
        }
        let mut attempts = Vec::new();
        for registration in self.registrations.iter().filter(|one| one.generic_http) {
            match open(registration, address.clone(), address.timeout.min(Self::PROBE)).await {
                Ok(kv) => return Ok(kv),
                Err(error) => attempts.push((registration.name.to_owned(), error)),
            }
        }
        Err(Error::NoneAnswered { attempts })
    }

    fn schemes(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        self.registrations.iter().flat_map(|one| one.schemes.iter().map(|scheme| (*scheme, one.name)))
    }

    fn refuse_duplicates(&self) -> Result<()> {
        let mut schemes: Vec<_> = self.schemes().collect();
        schemes.sort_unstable();
        match schemes.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            Some(pair) => Err(Error::DuplicateScheme {
                scheme: pair[0].0.to_owned(),
                first: pair[0].1.to_owned(),
                second: pair[1].1.to_owned(),
            }),
            None => Ok(()),
        }
    }
}

/// Connects through one backend and pings it, within `limit` for both together.
async fn open(registration: &Registration, address: Address, limit: Duration) -> Result<Kv> {
    if let Some(unknown) = address.parameter_names().find(|name| !registration.parameters.contains(name)) {
        let mut known: Vec<String> = registration.parameters.iter().map(|name| (*name).to_owned()).collect();
        known.push("timeout".to_owned());
        known.sort_unstable();
        let (parameter, backend) = (unknown.to_owned(), registration.name.to_owned());
        return Err(Error::UnknownParameter { parameter, backend, known });
    }
    let (root, timeout) = (address.root.clone(), address.timeout);
    // One call, so that the error of one that runs out of time says why the last attempt failed.
    let opened = bounded(limit, Idempotence::Repeatable, async {
        let backend = (registration.connect)(address).await?;
        let kv = Kv::new(backend).with_timeout(timeout).with_root(&root);
        kv.ping_to_connect().await.map(|()| kv)
    });
    opened.await.map_err(|error: Error| error.located(registration.name, "connect", "", ""))
}
