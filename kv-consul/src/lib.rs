//! Consul behind `kv-core`'s one key-value interface, through Consul's HTTP API.
//!
//! ```no_run
//! use kv_consul as _; // links the backend, so that `connect` finds it
//!
//! # async fn example() -> kv_core::Result<()> {
//! let kv = kv_core::connect("consul://127.0.0.1:8500/app").await?;
//! kv.set("config/port", "8080").await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Addresses
//! `consul://HOST[:8500][,HOST…][/ROOT]`, and `consuls://` for TLS; `http://`, `https://` and the empty address find
//! Consul too. Several hosts are several agents of one datacenter: a call that certainly was not applied at one of
//! them is made at the next. A user name and password in the address are sent as HTTP basic authentication, for an
//! agent behind a proxy. The root cannot begin with `/`, hold `//`, or have a segment `.` or `..`: Consul rewrites
//! such paths.
//!
//! | parameter | means | else from the environment | else |
//! |---|---|---|---|
//! | `token` | the ACL token | `CONSUL_HTTP_TOKEN`, `CONSUL_HTTP_TOKEN_FILE` | none |
//! | `ca` | a PEM file of the authorities that sign the agents' certificates | `CONSUL_CACERT` | those of the system |
//! | `cert`, `key` | PEM files of the client's certificate and its private key | `CONSUL_CLIENT_CERT`, `CONSUL_CLIENT_KEY` | none |
//! | `server-name` | the DNS name that the agents' certificates are checked for | `CONSUL_TLS_SERVER_NAME` | the host |
//! | `datacenter` | the datacenter to work in | | the agent's own |
//! | `consistency` | how `get`, `get_all` and `keys` read: `consistent`, `default` or `stale` | | `consistent` |
//! | `lock-delay` | how long Consul keeps a key from being locked after its holder's session ended; at most `60s` | | `0s` |
//! | `timeout` | the request timeout | | `5s` |
//!
//! The hosts themselves come from `CONSUL_HTTP_ADDR` (with `CONSUL_HTTP_SSL=true` for TLS) where the address names
//! none, and are `127.0.0.1:8500` otherwise. `CONSUL_HTTP_AUTH` (`USER:PASSWORD`) is read too.
//! `CONSUL_HTTP_SSL_VERIFY=false` is refused, as are Unix sockets.
//!
//! Anything but `consistency=consistent` gives up linearizable reads (clause R1); writes, transactions, watches and
//! locks stay consistent whatever it says.
//!
//! # How the contract is met
//! - **Writes** are transactions ([`/v1/txn`](https://developer.hashicorp.com/consul/api-docs/txn)), whose answer
//!   carries the new index. Consul takes a write of the same value and flags for no write at all, so each carries a
//!   number of its own in the entry's flags. A value must fit the 512 KiB of a transaction's JSON body in base64.
//!   Writes of single keys that come faster than they can be sent one by one share transactions, but never two of one
//!   key; one whose check fails, or that is refused, is taken out, and the others are sent again.
//! - **Watches** are
//!   [blocking queries](https://developer.hashicorp.com/consul/api-docs/features/blocking), compared with the state
//!   seen before. Changes of one key between two answers are merged; the index of a deletion is its own or, where
//!   Consul does not tell that one, that of the answer which showed it: never a smaller one. `after` older than the
//!   last change under the prefix is `Compacted`, since Consul keeps no history of deletions, unless it is the index of
//!   one of the listings that this client made lately. Watches of one prefix share one query; past a
//!   number of queries, neighbouring prefixes share one that covers them, since an agent takes a limited number of
//!   connections from one address (`limits.http_max_conns_per_client`, 200). What a token may not read is missing from
//!   listings and watches; where the servers enforce `key_list` policies, it must allow the wider prefix too.
//! - **Leases** are [sessions](https://developer.hashicorp.com/consul/api-docs/session) without health checks: only
//!   the time to live ends them, which Consul notices at most one more time to live later.
//! - **Locks** are entries like those of Consul's own lock, on the same key and with its flags: `consul lock PREFIX`
//!   and a lock on `PREFIX/.lock` exclude one another. Waiters in one process take their turn in order; between
//!   processes any may be first.
//!
//! # Features
//! `tls`, on by default: `consuls://` and `https://`, by rustls. Without it the crate does not depend on rustls, and an
//! address that asks for TLS is an [`InvalidAddress`](kv_core::Error::InvalidAddress) that names the feature.

mod agent;
mod arriving;
mod backend;
mod batch;
mod blocking;
mod client;
mod config;
mod deletions;
mod diff;
mod error;
mod hub;
mod lock;
mod path;
mod read;
mod recent;
mod scan;
mod session;
#[cfg(feature = "tls")]
mod tls;
#[cfg(not(feature = "tls"))]
#[path = "no_tls.rs"]
mod tls;
mod txn;
mod watch;
mod wire;

use kv_core::Registration;

/// As addresses, errors and events name this backend.
const NAME: &str = "consul";

/// Registers this backend where link-time registration is not wanted.
///
/// ```no_run
/// # async fn example() -> kv_core::Result<()> {
/// let kv = kv_core::Registry::new().with(kv_consul::REGISTRATION).connect("consul://127.0.0.1:8500").await?;
/// # Ok(())
/// # }
/// ```
pub const REGISTRATION: Registration = Registration {
    name: NAME,
    schemes: &["consul", "consuls"],
    parameters: &["ca", "cert", "consistency", "datacenter", "key", "lock-delay", "server-name", "token"],
    named: false,
    generic_http: true,
    connect: |address| Box::pin(backend::connect(address)),
};

kv_core::register!(REGISTRATION);
