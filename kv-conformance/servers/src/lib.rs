//! Real servers for tests: etcd and Consul in containers, single or in clusters, with fault injection.
//!
//! Tests connect to a [`Cluster`] by its [`address`](Cluster::address) and inject faults with its methods. It is
//! removed when it is [stopped](Cluster::stop) or dropped, and when the process ends by Ctrl-C, SIGTERM or SIGHUP. What
//! a killed process left behind is removed when the next process starts a server. Starting the first server installs a
//! handler for these signals; a program that ends through [`std::process::exit`] must stop its clusters first.
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
//! `KV_ETCD_IMAGE` and `KV_CONSUL_IMAGE` name an image, which is pulled if this machine does not have it. The images
//! `kv-etcd:*` and `kv-consul:*` are made by `images/build` instead. The defaults are among them: etcd 3.7.3 or, where
//! that cannot be made, the newest etcd that Debian has, and Consul 1.8.7.

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
mod planned;
mod random;
mod replaced;
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
