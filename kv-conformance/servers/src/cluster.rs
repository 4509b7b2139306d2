//! A running store in containers.

use std::collections::HashMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Mutex;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use testcontainers::bollard::Docker;
use testcontainers::bollard::query_parameters::LogsOptionsBuilder;
use tokio::sync::OnceCell;

use crate::credential::{Access, Credential, credential};
use crate::docker::{self, Networks};
use crate::error::Error;
use crate::http::Http;
use crate::kind::Kind;
use crate::member;
use crate::options::{Options, Tls};
use crate::owner::{self, CLUSTER_LABEL, OWNER_LABEL};
use crate::plan::Plan;
use crate::random::random;
use crate::run::Run;
use crate::tls::Certificates;
use crate::tool::{Output, Tool};
use crate::{consul, etcd};

/// A store in containers: one server, or several that elect a leader.
///
/// Members are numbered from 0. Their data survives [`kill`](Self::kill) and [`start_again`](Self::start_again).
/// Everything is removed when the cluster is [stopped](Self::stop) or dropped.
pub struct Cluster {
    pub(crate) kind: Kind,
    tls: Tls,
    pub(crate) run: Run,
    ports: Vec<u16>,
    /// Each member's address in the network of the peers.
    pub(crate) peers: Vec<Ipv4Addr>,
    pub(crate) networks: Option<Networks>,
    certificates: Option<Certificates>,
    pub(crate) admin: Option<Credential>,
    pub(crate) http: Http,
    /// A saved copy of the store.
    pub(crate) saved: Mutex<Option<Bytes>>,
}

impl Cluster {
    /// Starts `members` servers and returns when each of them serves linearizable reads.
    ///
    /// # Errors
    ///
    /// If there is no Docker engine or no image, or a server does not start. Nothing is left running then.
    pub async fn start(kind: Kind, members: usize, options: Options) -> Result<Self, Error> {
        if members == 0 {
            return Err(Error::new("a cluster has members"));
        }
        let engine = docker::engine().await?;
        prepare_process(&engine).await;
        let images = options.image.clone().map_or_else(|| kind.images(), |image| vec![image]);
        let image = docker::provide_image(&engine, &images).await?;

        let mut run = Run::new(engine.clone());
        let labels = HashMap::from([
            (OWNER_LABEL.to_owned(), owner::this_process()),
            (CLUSTER_LABEL.to_owned(), run.name.clone()),
        ]);
        let certificates = match options.tls {
            Tls::Off => None,
            Tls::Server | Tls::Mutual => Some(Certificates::generate()?),
        };
        let networks = if members > 1 { Some(Networks::create(&engine, &run.name, &labels).await?) } else { None };
        // A single member has no peers; the loopback address never changes.
        let address = |member| networks.as_ref().map_or(Ipv4Addr::LOCALHOST, |networks| networks.peer_address(member));
        let peers: Vec<Ipv4Addr> = (0..members).map(address).collect();
        let admin = options.access_control.then(|| credential(kind, "root"));
        let files = certificates.as_ref().map(Certificates::server_files).transpose()?.unwrap_or_default();

        let started = join_all((0..members).map(|member| {
            let plan = Plan {
                kind,
                image: &image,
                cluster: &run.name,
                labels: &labels,
                member,
                peers: &peers,
                network: networks.as_ref().map(|networks| networks.clients.as_str()),
                options: &options,
                admin: admin.as_ref(),
                files: &files,
            };
            let (networks, engine) = (&networks, &engine);
            async move {
                let (container, port) = member::start(&plan).await?;
                if let Some(networks) = networks {
                    networks.connect(engine, container.id(), member).await?;
                }
                Ok::<_, Error>((container, port))
            }
        }))
        .await;
        let mut ports = Vec::new();
        for member in started {
            let (container, port) = member?;
            run.containers.push(container);
            ports.push(port);
        }
        let scheme = if options.tls == Tls::Off { "http" } else { "https" };
        let bases = ports.iter().map(|port| format!("{scheme}://127.0.0.1:{port}")).collect();
        let http = Http::new(bases, certificates.as_ref())?;
        let cluster = Self {
            kind,
            tls: options.tls,
            run,
            ports,
            peers,
            networks,
            certificates,
            admin,
            http,
            saved: Mutex::default(),
        };
        cluster.await_all().await?;
        if let (Kind::Etcd, Some(root)) = (kind, &cluster.admin) {
            etcd::enable_access_control(&cluster.http, root).await?;
        }
        Ok(cluster)
    }

    /// The kind of the store.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The number of members, running or not.
    pub fn members(&self) -> usize {
        self.ports.len()
    }

    /// `host:port` of every member.
    pub fn endpoints(&self) -> Vec<String> {
        self.ports.iter().map(|port| format!("127.0.0.1:{port}")).collect()
    }

    /// The address of all members, for `kv_core::connect`.
    pub fn address(&self) -> String {
        self.address_at(&self.endpoints())
    }

    /// The address of these endpoints: some of the members, or proxies to them.
    pub fn address_at(&self, endpoints: &[String]) -> String {
        self.compose(&endpoints.join(","), None)
    }

    /// The address of one member.
    ///
    /// # Panics
    ///
    /// If there is no such member, as in every method that takes a member.
    pub fn address_of(&self, member: usize) -> String {
        self.address_at(&self.endpoints()[member..=member])
    }

    /// The same as [`address`](Self::address), with credentials.
    pub fn address_as(&self, credential: &Credential) -> String {
        self.compose(&self.endpoints().join(","), Some(credential))
    }

    fn compose(&self, hosts: &str, credential: Option<&Credential>) -> String {
        let mut parameters = Vec::new();
        if let Some(certificates) = &self.certificates {
            parameters.push(("ca", certificates.ca().display().to_string()));
            if self.tls == Tls::Mutual {
                parameters.push(("cert", certificates.client_certificate().display().to_string()));
                parameters.push(("key", certificates.client_key().display().to_string()));
            }
        }
        let mut user = String::new();
        match credential {
            Some(Credential::User { name, password }) => {
                let (name, password) = (utf8_percent_encode(name, RESERVED), utf8_percent_encode(password, RESERVED));
                user = format!("{name}:{password}@");
            }
            Some(Credential::Token(token)) => parameters.push(("token", token.clone())),
            None => {}
        }
        let secure = if self.tls == Tls::Off { "" } else { "s" };
        let mut address = format!("{}{secure}://{user}{hosts}", self.kind);
        for (index, (name, value)) in parameters.iter().enumerate() {
            let separator = if index == 0 { '?' } else { '&' };
            address = format!("{address}{separator}{name}={}", utf8_percent_encode(value, RESERVED_IN_PARAMETER));
        }
        address
    }

    /// The certificates, if clients connect with TLS.
    pub fn certificates(&self) -> Option<&Certificates> {
        self.certificates.as_ref()
    }

    /// The credential with every permission, if there is access control.
    pub fn admin(&self) -> Option<&Credential> {
        self.admin.as_ref()
    }

    /// Creates a credential with the permission `access` on keys that begin with `prefix`, and no other.
    ///
    /// # Errors
    ///
    /// If there is no access control, or the server refuses.
    pub async fn grant(&self, prefix: &str, access: Access) -> Result<Credential, Error> {
        let Some(admin) = &self.admin else {
            return Err(Error::new("this cluster was started without access control"));
        };
        let name = format!("user-{}", random());
        match self.kind {
            Kind::Etcd => {
                let granted = credential(self.kind, &name);
                etcd::grant(&self.http, admin, &granted, prefix, access).await?;
                Ok(granted)
            }
            Kind::Consul => consul::grant(&self.http, admin, &name, prefix, access).await,
        }
    }

    /// Removes every permission from a credential that was [granted](Self::grant). The credential still exists.
    ///
    /// # Errors
    ///
    /// If the server refuses.
    pub async fn revoke(&self, granted: &Credential) -> Result<(), Error> {
        let Some(admin) = &self.admin else {
            return Err(Error::new("this cluster was started without access control"));
        };
        match self.kind {
            Kind::Etcd => etcd::revoke(&self.http, admin, granted).await,
            Kind::Consul => consul::revoke(&self.http, admin, granted).await,
        }
    }

    /// The version that the first member reports.
    ///
    /// # Errors
    ///
    /// If it does not answer.
    pub async fn version(&self) -> Result<String, Error> {
        match self.kind {
            Kind::Etcd => etcd::version(&self.http).await,
            Kind::Consul => consul::version(&self.http, self.admin.as_ref()).await,
        }
    }

    /// The last 30 lines of a member's log.
    pub async fn log(&self, member: usize) -> String {
        let options = LogsOptionsBuilder::new().stdout(true).stderr(true).tail("30").build();
        let lines = self.run.engine.logs(self.container(member), Some(options)).collect::<Vec<_>>().await;
        lines.into_iter().map(|line| line.map_or_else(|error| error.to_string(), |line| line.to_string())).collect()
    }

    /// Runs a command in a member's container to its end. `etcdctl` and `consul` need no options to find the server.
    ///
    /// # Errors
    ///
    /// If it cannot be run. A command that runs and fails is no error here.
    pub async fn exec(&self, member: usize, command: &[&str]) -> Result<Output, Error> {
        self.spawn(member, command).await?.wait().await
    }

    /// Starts a command in a member's container and does not wait for its end.
    ///
    /// # Errors
    ///
    /// If it cannot be run.
    pub async fn spawn(&self, member: usize, command: &[&str]) -> Result<Tool, Error> {
        Tool::start(&self.run.engine, self.container(member), command).await
    }

    /// Removes everything and returns when it is gone.
    pub async fn stop(mut self) {
        self.run.end().await;
    }

    /// The value of [`CLUSTER_LABEL`] on all containers and networks of this cluster.
    pub fn name(&self) -> &str {
        &self.run.name
    }

    pub(crate) fn container(&self, member: usize) -> &str {
        self.run.containers[member].id()
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("kind", &self.kind)
            .field("name", &self.run.name)
            .field("endpoints", &self.endpoints())
            .finish_non_exhaustive()
    }
}

/// Set-up before the process starts its first server; runs once.
async fn prepare_process(engine: &Docker) {
    static PREPARED: OnceCell<()> = OnceCell::const_new();
    PREPARED
        .get_or_init(|| async {
            owner::watch_signals();
            owner::reap(engine).await;
        })
        .await;
}

/// All characters except those that need no encoding in any part of an address.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// The same without the slash, which ends a host but has no meaning in a parameter.
const RESERVED_IN_PARAMETER: &AsciiSet = &RESERVED.remove(b'/');
