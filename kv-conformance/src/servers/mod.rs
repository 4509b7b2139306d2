//! Real servers for the suite: etcd and Consul in containers, one server or a cluster of three, and the means to hurt
//! them.
//!
//! A [`Cluster`] is started, used by its [`address`](Cluster::address), hurt by its methods, and gone afterwards: when
//! it is [stopped](Cluster::stop) or dropped, when the process ends by Ctrl-C, SIGTERM or SIGHUP, and, should the
//! process have been killed outright, when the next one starts a server. Starting the first server installs a handler
//! for these signals; a program that ends through [`std::process::exit`] has to stop its clusters first.
//!
//! ```no_run
//! # async fn run() -> Result<(), kv_conformance::servers::Error> {
//! use kv_conformance::servers::{Cluster, Kind, Options};
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
mod docker;
mod error;
mod etcd;
mod faults;
mod fixture;
mod http;
mod member;
mod owner;
mod planned;
mod run;
mod tls;
mod tool;

use std::env;
use std::fmt;
use std::hash::{BuildHasher, RandomState};

pub use cluster::Cluster;
pub use error::Error;
pub use fixture::ServerFixture;
pub use owner::{CLUSTER_LABEL, OWNER_LABEL, this_process};
pub use tls::Certificates;
pub use tool::{Output, Tool};

/// Which store a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// etcd v3.
    Etcd,
    /// Consul, as a server agent.
    Consul,
}

impl Kind {
    /// The image that servers of this kind are started from.
    pub fn image(self) -> String {
        let (variable, default) = match self {
            Self::Etcd => ("KV_ETCD_IMAGE", "kv-etcd:latest"),
            Self::Consul => ("KV_CONSUL_IMAGE", "kv-consul:1.8.7"),
        };
        non_empty(variable).unwrap_or_else(|| default.to_owned())
    }

    /// The environment variable that names a running server.
    pub fn address_variable(self) -> &'static str {
        match self {
            Self::Etcd => "KV_ETCD_ADDR",
            Self::Consul => "KV_CONSUL_ADDR",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Consul => "consul",
        }
    }

    /// The port that clients reach within a container.
    fn port(self, tls: Tls) -> u16 {
        match (self, tls) {
            (Self::Etcd, _) => 2379,
            (Self::Consul, Tls::Off) => 8500,
            (Self::Consul, Tls::Server | Tls::Mutual) => 8501,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The address of a server that already runs, if the environment names one (`KV_ETCD_ADDR`, `KV_CONSUL_ADDR`).
pub fn address_from_environment(kind: Kind) -> Option<String> {
    non_empty(kind.address_variable())
}

fn non_empty(variable: &str) -> Option<String> {
    env::var(variable).ok().filter(|value| !value.is_empty())
}

/// How clients reach a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tls {
    /// In plain text.
    #[default]
    Off,
    /// By TLS, where the server shows a certificate.
    Server,
    /// By TLS, where the client shows one as well.
    Mutual,
}

/// What a server is to be like; by default plain, and open to everyone.
#[derive(Debug, Clone, Default)]
pub struct Options {
    image: Option<String>,
    tls: Tls,
    access_control: bool,
    arguments: Vec<String>,
    files: Vec<(String, Vec<u8>)>,
    in_memory: bool,
}

impl Options {
    /// Another image than [`Kind::image`].
    #[must_use]
    pub fn image(mut self, reference: impl Into<String>) -> Self {
        self.image = Some(reference.into());
        self
    }

    /// TLS for clients; members talk to one another in plain text.
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = tls;
        self
    }

    /// Refuses whoever does not show credentials: etcd's authentication, Consul's ACLs with `deny` as the default.
    ///
    /// [`Cluster::admin`] may do everything, [`Cluster::grant`] makes credentials that may do less.
    #[must_use]
    pub fn access_control(mut self) -> Self {
        self.access_control = true;
        self
    }

    /// One more argument for the server's command line, after the suite's own: for example `--auth-token-ttl=3` for
    /// etcd, or `-hcl=limits { http_max_conns_per_client = 1000 }` for Consul.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Keeps the data in memory, where no disk slows the server down; it is gone once the server stops, so that a
    /// member that was killed cannot start again.
    #[must_use]
    pub fn in_memory(mut self) -> Self {
        self.in_memory = true;
        self
    }

    /// A file for each member, at an absolute path, for an [`argument`](Self::argument) to name.
    #[must_use]
    pub fn file(mut self, path: impl Into<String>, content: impl Into<Vec<u8>>) -> Self {
        self.files.push((path.into(), content.into()));
        self
    }
}

/// What a client shows to a server with access control.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Credential {
    /// etcd's.
    User {
        /// The user.
        name: String,
        /// The user's password.
        password: String,
    },
    /// Consul's.
    Token(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User { name, .. } => f.debug_struct("User").field("name", name).finish_non_exhaustive(),
            Self::Token(_) => f.debug_tuple("Token").finish_non_exhaustive(),
        }
    }
}

/// What a granted credential may do below its prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read.
    Read,
    /// Read and write, sessions included.
    Write,
}

/// Sixteen hexadecimal digits, random enough to be unique on one machine.
fn random() -> String {
    format!("{:016x}", RandomState::new().hash_one(0))
}
