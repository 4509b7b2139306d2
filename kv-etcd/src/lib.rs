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
//! root, so other programs see the same keys. The first host that answers serves, and the others replace it if it
//! fails. `http://`, `https://` and the empty address try etcd among the other backends.
//!
//! | parameter | meaning | environment variable | default |
//! |---|---|---|---|
//! | `ca` | PEM file with the authorities for the server's certificate | `ETCDCTL_CACERT` | the system's |
//! | `cert`, `key` | PEM files with the client's certificate and its key | `ETCDCTL_CERT`, `ETCDCTL_KEY` | none |
//! | `server-name` | the name that the server's certificate must have | | the host |
//! | `consistency` | `linearizable`, or `serializable`: one member answers reads alone, and they may be stale | | `linearizable` |
//! | `timeout` | the request timeout of the handle | | `5s` |
//!
//! An address without hosts uses `ETCDCTL_ENDPOINTS`, or else `127.0.0.1:2379`. An address without a user uses
//! `ETCDCTL_USER` (`user:password`) and `ETCDCTL_PASSWORD`. With a user, a token is fetched when it is needed, and
//! again when it has lapsed.
//!
//! # Runtimes
//!
//! A handle works from any number of tokio runtimes, at once or one after the other ([clause S1](kv_core::contract)).
//! Each runtime has its own connection, login, watch stream, renewals and queues. It must have time and IO enabled. A
//! watch belongs to the runtime in which it was opened, and ends with an error together with that runtime. A call
//! outside any runtime panics.
//!
//! # Versions of etcd
//!
//! The conformance suite was run with one member of each of these versions.
//!
//! | version | what it changes for this driver |
//! |---|---|
//! | 3.4.23 | progress of a watch that a client asks for may overtake events (until 3.4.31), so none is asked for |
//! | 3.5.30 | the answer that cancels a compacted watch may have no header and no reason, so `compact_revision` decides; from 3.5.28 on a renewal needs the permission for each key on the lease, and `Status` needs a login once there are users |
//! | 3.6.16 | requests to a learner fail with `FailedPrecondition` instead of `Unavailable` |
//! | 3.7.3 | a range with `keys_only` is answered from the index in memory and has no lease, so ownership is compared in a transaction; renewals no longer wait for the member to catch up (`FastLeaseKeepAlive`, on by default); `RangeStream` exists and is not used, because pages serve every version; no new error texts, and the same default limits as 3.6 |
//!
//! # Failures
//!
//! A call is tried again, on another endpoint first, until its time is up, if the failure proves that nothing was
//! applied, or if the call is a read ([clause S5](kv_core::contract::CLAUSES#S5)). So a port that refuses connections
//! is an error only when the request timeout has passed. A table in the source file `error/table.rs` says what each
//! answer of etcd proves. A member that answers no call for a second is left for another endpoint; without another, a
//! connection is left when its server does not answer a ping for 4 s. Connecting goes on in the background when the
//! call that began it has given up ([clause S3](kv_core::contract::CLAUSES#S3)).
//!
//! A full store (`database space exceeded`) makes writes [`Indeterminate`](kv_core::Error::Indeterminate), because etcd
//! says so after some writes that it did apply. `ping`, locks and ephemeral keys fail with
//! [`StorageFull`](kv_core::Error::StorageFull).
//!
//! # Connections
//!
//! A handle has one connection for each runtime, and a second one for large values and long listings as soon as there
//! are some: small answers do not wait for large ones ([clause S2](kv_core::contract::CLAUSES#S2)). The two may lead to
//! different members.
//!
//! # Proxies
//!
//! `etcd grpc-proxy` numbers watches itself, and confirms them out of order. Through it, the watches of a stream are
//! opened one after the other.
//!
//! # How the contract is met
//!
//! | [contract](kv_core::contract) | etcd |
//! |---|---|
//! | index | revision: one for the whole store, raised by every request that changes something |
//! | value at most 1,552,384 bytes, transaction 128 checks and operations and 1,556,480 bytes | request limit of 1.5 MiB, less keys and envelope; a server with lower limits refuses earlier |
//! | snapshot | reads of one revision, in pages |
//! | watch | one stream for all watches of a backend; etcd keeps every change until it is compacted |
//! | time to live | lease of whole seconds; the server grants at least what its election timeout allows, 2 s by default |
//! | lock on `NAME` | keys `NAME/<lease id>` on their leases, as of `etcdctl lock NAME` and etcd's Go client: all exclude one another, in the order in which they asked |
//!
//! Reads and writes of single keys that are made while others are in flight travel together, in one transaction. Each
//! has the outcome that it would have had alone, and those that change something share a revision. An operation is sent
//! at once if none is in flight. How many requests are in flight follows from the round trips
//! ([`kv_core::backend::batch`]): few beside the server, as many as callers need far from it.
//!
//! A lease that `destroy` or `unlock` gives back is kept for a second. The next ephemeral key or lock of the same time to
//! live takes it, which saves the round trip of a grant. Otherwise it is revoked in the background.
//!
//! A key `NAME/<lease id>` that is attached to the lease in its name is the entry of a lock. Reads, listings and
//! watches leave it out, and only such keys contend for the lock `NAME`. Other keys at or below `NAME` are data, and do
//! not affect the lock. `etcdctl lock` and etcd's Go client count every key below `NAME/` as a contender. So if they
//! share a lock with this crate, keep nothing else below its name. The entries of `concurrency.Election` have the same
//! form as those of a lock, and are treated alike.
//!
//! If another client writes an ephemeral key, etcd detaches the key from its lease. The key stays, and its holder has
//! lost it.
//!
//! # Features
//!
//! `tls`, on by default: `etcds://` and `https://`, by rustls. Without it the crate does not depend on rustls, and an
//! address that asks for TLS is an [`InvalidAddress`](kv_core::Error::InvalidAddress) that names the feature.

mod api;
#[cfg(test)]
mod arbitrary;
mod backend;
mod batch;
mod config;
mod connect;
mod error;
mod large_keys;
mod lease;
mod read;
mod shared;
mod transport;
mod txn;
mod watch;

use kv_core::Registration;

/// Registers this backend where link-time registration is not wanted.
pub const REGISTRATION: Registration = Registration {
    name: config::NAME,
    schemes: &["etcd", "etcds"],
    parameters: &["ca", "cert", "consistency", "key", "server-name"],
    named: false,
    generic_http: true,
    connect: |address| Box::pin(async move { connect::connect(&address) }),
};

kv_core::register!(REGISTRATION);

/// The code blocks of the crate's page compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Page;
