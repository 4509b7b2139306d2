//! The kinds of stores that can be started.

use std::env;
use std::fmt;

use crate::options::Tls;

/// The kind of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// etcd v3.
    Etcd,
    /// Consul, as a server agent.
    Consul,
}

impl Kind {
    /// The images for servers of this kind. The first one that this machine has or can build is used.
    pub fn images(self) -> Vec<String> {
        let (variable, defaults): (_, &[&str]) = match self {
            // Building the first one needs Go or a container registry. `latest` is the newest etcd that Debian has.
            Self::Etcd => ("KV_ETCD_IMAGE", &["kv-etcd:3.7.3", "kv-etcd:latest"]),
            Self::Consul => ("KV_CONSUL_IMAGE", &["kv-consul:1.8.7"]),
        };
        non_empty(variable).map_or_else(|| defaults.iter().copied().map(str::to_owned).collect(), |image| vec![image])
    }

    /// The environment variable that names a running server.
    pub fn address_variable(self) -> &'static str {
        match self {
            Self::Etcd => "KV_ETCD_ADDR",
            Self::Consul => "KV_CONSUL_ADDR",
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Consul => "consul",
        }
    }

    /// The port for clients in a container.
    pub(crate) fn port(self, tls: Tls) -> u16 {
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
