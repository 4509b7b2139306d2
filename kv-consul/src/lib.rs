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
//! Consul too. Several hosts are several agents of one datacenter. A user name and password in the address are sent as
//! HTTP basic authentication, for agents behind a proxy. The root cannot begin with `/`, contain `//`, or have a segment
//! `.` or `..`, because Consul rewrites such paths.
//!
//! | parameter | meaning | else from the environment | else |
//! |---|---|---|---|
//! | `token` | the ACL token | `CONSUL_HTTP_TOKEN`, `CONSUL_HTTP_TOKEN_FILE` | none |
//! | `ca` | a PEM file of the authorities that sign the agents' certificates | `CONSUL_CACERT` | those of the system |
//! | `cert`, `key` | PEM files of the client's certificate and its private key | `CONSUL_CLIENT_CERT`, `CONSUL_CLIENT_KEY` | none |
//! | `server-name` | the DNS name that must be in the agents' certificates | `CONSUL_TLS_SERVER_NAME` | the host |
//! | `datacenter` | the datacenter to use | | the agent's own |
//! | `consistency` | the consistency of `get`, `get_all` and `keys`: `consistent`, `default` or `stale` | | `consistent` |
//! | `connections` | the most connections to an agent, half of them for watches and waits, which lend calls what they do not use; from 4 | | `32` |
//! | `lock-delay` | how long a key cannot be locked after its holder's session ended; at most `60s` | | `0s` |
//! | `timeout` | the request timeout | | `5s` |
//!
//! If the address names no host, the hosts come from `CONSUL_HTTP_ADDR` (with `CONSUL_HTTP_SSL=true` for TLS), and are
//! `127.0.0.1:8500` without that variable. `CONSUL_HTTP_AUTH` (`USER:PASSWORD`) is read too.
//! `CONSUL_HTTP_SSL_VERIFY=false` and Unix sockets are refused.
//!
//! Any `consistency` but `consistent` gives up linearizable reads ([clause R1](kv_core::contract::CLAUSES#R1)). Writes,
//! transactions, watches and locks stay consistent whatever it says.
//!
//! # Agents and time
//! A call has the handle's timeout and no other ([clause S3](kv_core::contract::CLAUSES#S3)). Until then a read is
//! repeated, and so is a write that was certainly not applied: at the other agents first, then in rounds with pauses
//! ([clause S5](kv_core::contract::CLAUSES#S5)). If an agent takes long over a read, another one is asked as well, and
//! the first answer counts. Connecting and `ping` follow the same rule. Only at a generic address is each agent asked
//! once, because another backend may be the right one.
//!
//! An agent whose connection broke is asked last, and gets no write before it has answered something harmless. An
//! attempt to connect ends after two seconds, whatever the timeout of the call.
//!
//! # Connections
//! An agent closes every connection beyond 200 from one address (`limits.http_max_conns_per_client`). A handle uses
//! `connections` of them at most: half for blocking queries, and the others for calls and for connections that are
//! opening, so that none takes what the other needs. Calls borrow what queries leave, except for a quarter. That limit
//! holds for all its runtimes together, except that each runtime has at least two connections for calls and one for
//! queries, because it must not wait for another runtime. Calls whose last answer was large use at most half of the
//! connections for calls. More watches than there are connections share queries.
//!
//! # Runtimes
//! A handle works from any number of tokio runtimes, at once or one after the other ([clause S1](kv_core::contract::CLAUSES#S1)).
//! Each runtime has its own connections, queries and queues. It must have time and IO enabled. A watch belongs to the
//! runtime in which it was opened, and ends with an error together with that runtime. A call outside any runtime panics.
//!
//! # How it keeps the contract
//! - **Writes** are transactions ([`/v1/txn`](https://developer.hashicorp.com/consul/api-docs/txn)), whose answers
//!   contain the new index. Consul ignores a write that repeats an entry's value and flags, so each write puts a fresh
//!   number into the entry's flags. A value must fit, in base64, into the 512 KiB of a transaction's JSON body. Writes of
//!   single keys that come faster than they can be sent one by one share transactions, but never two of one key. If a
//!   check fails or a write is refused, the others are sent again without it.
//! - **Reads** of single keys share transactions in the same way, which are as fresh as reads alone: `?consistent` counts
//!   for a transaction that only reads, too. A key that was absent or large the last time does not hold up the others.
//!   How many requests are in flight follows from the round trips ([`kv_core::backend::batch`]).
//! - **Watches** are [blocking queries](https://developer.hashicorp.com/consul/api-docs/features/blocking) whose answers
//!   are compared with the state before. Changes of one key between two answers are merged. The index of a deletion is
//!   its own or, if Consul does not report that one in time, a larger one: that of the answer which showed it. Watches of
//!   one prefix share one query. Beyond a number of queries, neighbouring prefixes share a query that covers them,
//!   because an agent limits the connections from one address (`limits.http_max_conns_per_client`, 200). If the token may
//!   not list the wider prefix (`acl.enable_key_list_policy`), each prefix keeps a query of its own; those for which no
//!   connection is left ask twice a second.
//! - **History.** Consul keeps none. A watch `after` an index continues from a listing of that index that this handle
//!   made recently. Otherwise it is `Compacted`, unless `after` is the very index of the prefix and Consul cannot have
//!   forgotten a deletion since. If the store is restored from a snapshot, open watches deliver the deletions that this
//!   causes. They end with `Compacted` if entries come back, because their indices are old
//!   ([clause E8](kv_core::contract::CLAUSES#E8)).
//! - **Permissions.** Consul leaves out of a listing what the token may not read, and does not say so. So an empty
//!   listing costs one more request, unless the agent is a server without ACLs. The result is `PermissionDenied` if the
//!   token may not read the prefix. A watch checks its permission when nothing is left of what it showed, or when keys
//!   vanish without a new index. It ends with `PermissionDenied` if the token may not read them any more. One case is
//!   not noticed: the token loses a part of a prefix between two answers that show other changes too.
//! - **Directories.** A listing of names does not distinguish locks from data. So `keys` also lists the
//!   sub-directories: one by one if there are few, and otherwise all names below by one request.
//! - **Leases** are [sessions](https://developer.hashicorp.com/consul/api-docs/session) without health checks. Only the
//!   time to live ends them, and Consul notices that at most one more time to live later. A session also ends when its
//!   agent leaves the cluster ([`EndsLeases`](kv_core::MemberLeave::EndsLeases)), but not when that is restarted.
//! - **Spare sessions.** A session that `destroy` or `unlock` gives back is kept for a second. The next ephemeral key or
//!   lock of the same time to live takes it, which saves the round trip of a new one. Otherwise it is destroyed in the
//!   background. So a lock is known by the index of its entry, not by its session.
//! - **Locks** are those of `consul lock`: the lock on `NAME` is the entry `NAME/.lock` with the flags of Consul's own
//!   lock, so `consul lock NAME` and this lock exclude one another. The token needs the permission to write that entry.
//!   Entries with this last segment and these flags are shown by no read and no watch. An entry `NAME/.lock` with other
//!   flags is data of another program: it is shown, and the lock on `NAME` is a `Conflict`. Waiters of one handle are
//!   served in the order in which they asked, in whichever runtimes they wait; one whose future nobody polls for two
//!   seconds is passed over. Between handles and processes any may be next.
//!
//! # Features
//! `tls`, on by default: `consuls://` and `https://`, by rustls. Without it the crate does not depend on rustls, and an
//! address that needs TLS is an [`InvalidAddress`](kv_core::Error::InvalidAddress) that names the feature.

mod api;
mod backend;
mod batch;
mod config;
mod connect;
mod error;
mod keys;
mod lease;
mod read;
mod settings;
mod shared;
mod transport;
mod txn;
mod watch;

use kv_core::Registration;

/// Registers this backend in programs that do without link-time registration.
///
/// ```no_run
/// # async fn example() -> kv_core::Result<()> {
/// let kv = kv_core::Registry::new().with(kv_consul::REGISTRATION).connect("consul://127.0.0.1:8500").await?;
/// # Ok(())
/// # }
/// ```
pub const REGISTRATION: Registration = Registration {
    name: config::NAME,
    schemes: &["consul", "consuls"],
    parameters: &[
        "ca",
        "cert",
        "connections",
        "consistency",
        "datacenter",
        "key",
        "lock-delay",
        "server-name",
        "token",
    ],
    named: false,
    generic_http: true,
    connect: |address| Box::pin(connect::connect(address)),
};

kv_core::register!(REGISTRATION);

/// The code blocks of the crate's page compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Page;
