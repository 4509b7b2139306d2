//! etcd v3 behind [`kv_core::Kv`], over gRPC: etcd 3.4 and later.
//!
//! ```no_run
//! use kv_etcd as _;
//!
//! # async fn example() -> kv_core::Result<()> {
//! let kv = kv_core::connect("etcd://127.0.0.1:2379/app").await?;
//! let index = kv.set("config/port", "8080").await?;
//! assert_eq!(kv.get("config/port").await?.index, index);
//! # Ok(())
//! # }
//! ```
//!
//! # Addresses
//!
//! `etcd://[user:password@]host[:2379][,host…][/root]`, or `etcds://` for TLS. Keys are stored as they are, below the
//! root, so other programs see the same keys. Any host that is reached serves; the others are for when it fails.
//! `http://`, `https://` and the empty address try etcd among the other backends.
//!
//! | parameter | meaning | else from | else |
//! |---|---|---|---|
//! | `ca` | file with the certificates that the server's is checked against (PEM) | `ETCDCTL_CACERT` | the platform's |
//! | `cert`, `key` | files with this client's certificate and its key (PEM) | `ETCDCTL_CERT`, `ETCDCTL_KEY` | none |
//! | `server-name` | the name that the server's certificate must have | | the host |
//! | `consistency` | `linearizable`, or `serializable`: reads that one member answers alone, and that may be stale | | `linearizable` |
//! | `timeout` | the request timeout of the handle | | `5s` |
//!
//! What else the address leaves open: the hosts from `ETCDCTL_ENDPOINTS`, or else `127.0.0.1:2379`; user and password
//! from `ETCDCTL_USER` (`user:password`) and `ETCDCTL_PASSWORD`. With a user, a token is fetched when it is needed and
//! renewed when it has lapsed.
//!
//! # How the contract is met
//!
//! | of the [contract](kv_core::contract) | by etcd's |
//! |---|---|
//! | index | revision: one for the whole store, raised by every request that changes something |
//! | value at most 1,552,384 bytes, transaction 128 checks and operations and 1,556,480 bytes | request limit of 1.5 MiB, less keys and envelope; a server started with lower limits refuses earlier |
//! | snapshot | reads of one revision, in pages |
//! | watch | one stream for all watches of a backend; etcd keeps every change until it is compacted |
//! | time to live | lease: whole seconds, at least what the server's election timeout allows (2 s by default), which is what is then granted |
//! | lock on `NAME` | keys `NAME/<lease id>`, as `etcdctl lock NAME` and etcd's Go client make them: all exclude one another, first come first served |
//!
//! Reads and writes of single keys that meet others under way travel together, in one transaction: each has the
//! outcome that it would have had alone, and those that change something share a revision. An operation that meets
//! nobody is sent at once.
//!
//! A lock's waiters and holder keep keys below `NAME/`. Whatever else stands there counts as a contender that came
//! first, so nothing else belongs there.
//!
//! An ephemeral key that another client writes is no longer on its lease, and stays; its holder finds it lost.
//!
//! # Features
//!
//! `tls`, on by default: `etcds://` and `https://`, by rustls. Without it the crate does not depend on rustls, and an
//! address that asks for TLS is an [`InvalidAddress`](kv_core::Error::InvalidAddress) that names the feature.

#[cfg(test)]
mod arbitrary;
mod auth;
mod backend;
mod backoff;
mod batch;
mod client;
mod config;
mod connection;
mod error;
mod http2;
mod keep_alive;
mod lease;
mod lock;
mod page;
mod proto;
mod range;
mod read;
#[cfg(feature = "tls")]
mod tls;
#[cfg(not(feature = "tls"))]
#[path = "no_tls.rs"]
mod tls;
mod txn;
mod watch;

use std::sync::Arc;

use kv_core::{Address, Backend, Registration, Result};

pub use backend::EtcdBackend;

/// As addresses, errors and events name this backend.
const NAME: &str = "etcd";

/// Registers this backend where link-time registration is not wanted.
pub const REGISTRATION: Registration = Registration {
    name: NAME,
    schemes: &["etcd", "etcds"],
    parameters: &["ca", "cert", "consistency", "key", "server-name"],
    named: false,
    generic_http: true,
    connect: |address| Box::pin(async move { connect(&address) }),
};

kv_core::register!(REGISTRATION);

fn connect(address: &Address) -> Result<Arc<dyn Backend>> {
    Ok(Arc::new(EtcdBackend::new(address)?))
}
