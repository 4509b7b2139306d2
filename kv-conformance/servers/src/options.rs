//! How a server is configured.

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
    pub(crate) image: Option<String>,
    pub(crate) tls: Tls,
    pub(crate) access_control: bool,
    pub(crate) arguments: Vec<String>,
    pub(crate) files: Vec<(String, Vec<u8>)>,
    pub(crate) in_memory: bool,
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
