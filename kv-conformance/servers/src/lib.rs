//! Real servers for the suite: etcd and Consul in containers, one server or a cluster of three, and the means to hurt
//! them.
//!
//! A [`Cluster`] is started, used by its [`address`](Cluster::address), hurt by its methods, and gone afterwards: when
//! it is [stopped](Cluster::stop) or dropped, when the process ends by Ctrl-C, SIGTERM or SIGHUP, and, should the
//! process have been killed outright, when the next one starts a server. Starting the first server installs a handler
//! for these signals; a program that ends through [`std::process::exit`] has to stop its clusters first.
//!
//! ```no_run
//! # async fn run() -> Result<(), kv_conformance_servers::Error> {
//! use kv_conformance_servers::{Cluster, Kind, Options};
//!
//! let cluster = Cluster::start(Kind::Etcd, 3, Options::default()).await?;
//! println!("{}", cluster.address());
//! let leader = cluster.await_leader(None).await?;
//! cluster.kill(leader).await?;
//! cluster.await_leader(Some(leader)).await?;
//! cluster.start_again(leader).await?;
//! cluster.stop().await;
//! # Ok(())
//! # }
//! ```
//!
//! The image is the one that `KV_ETCD_IMAGE` or `KV_CONSUL_IMAGE` names: as it is on this machine, else pulled. The
//! images `kv-etcd:*` and `kv-consul:*`, which are the defaults, are made by `images/build` when they are missing.

mod cluster;
mod consul;
mod credential;
mod docker;
mod error;
mod etcd;
mod faults;
mod fixture;
mod http;
mod kind;
mod member;
mod options;
mod owner;
mod plan;
mod random;
mod run;
mod tls;
mod tool;

pub use cluster::Cluster;
pub use credential::{Access, Credential};
pub use error::Error;
pub use fixture::ServerFixture;
pub use kind::{Kind, address_from_environment};
pub use options::{Options, Tls};
pub use owner::{CLUSTER_LABEL, OWNER_LABEL, this_process};
pub use tls::Certificates;
pub use tool::{Output, Tool};
