//! How a server is configured.

/// How clients reach a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tls {
    /// Plain text.
    #[default]
    Off,
    /// TLS; the server presents a certificate.
    Server,
    /// TLS; the client presents a certificate as well.
    Mutual,
}

/// The configuration of a server; by default plain text without access control.
#[derive(Debug, Clone, Default)]
pub struct Options {
    pub(crate) image: Option<String>,
    pub(crate) tls: Tls,
    pub(crate) access_control: bool,
    pub(crate) arguments: Vec<String>,
    pub(crate) files: Vec<(String, Vec<u8>)>,
    pub(crate) in_memory: bool,
}

impl Options {
    /// Another image than those of [`Kind::images`](crate::Kind::images).
    #[must_use]
    pub fn image(mut self, reference: impl Into<String>) -> Self {
        self.image = Some(reference.into());
        self
    }

    /// Sets TLS for clients. Members talk to one another in plain text.
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = tls;
        self
    }

    /// Requires credentials: etcd's authentication, Consul's ACLs with the default policy `deny`.
    ///
    /// [`Cluster::admin`](super::Cluster::admin) has every permission, [`Cluster::grant`](super::Cluster::grant)
    /// creates credentials with fewer.
    #[must_use]
    pub fn access_control(mut self) -> Self {
        self.access_control = true;
        self
    }

    /// Adds an argument to the end of the server's command line: for example `--auth-token-ttl=3` for
    /// etcd, or `-hcl=limits { http_max_conns_per_client = 1000 }` for Consul.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Keeps the data in memory, so that no disk slows the server down. The data is lost when the server stops, so a
    /// killed member cannot start again.
    #[must_use]
    pub fn in_memory(mut self) -> Self {
        self.in_memory = true;
        self
    }

    /// Adds a file at an absolute path in each member's container, for use in an [`argument`](Self::argument).
    #[must_use]
    pub fn file(mut self, path: impl Into<String>, content: impl Into<Vec<u8>>) -> Self {
        self.files.push((path.into(), content.into()));
        self
    }
}
