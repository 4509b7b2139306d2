//! A running store, and what can be done to it.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::Ipv4Addr;
use std::process;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::future::{join_all, try_join_all};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use testcontainers::bollard::Docker;
use testcontainers::bollard::query_parameters::{KillContainerOptionsBuilder, LogsOptionsBuilder};
use testcontainers::{ContainerAsync, GenericImage};
use tokio::sync::OnceCell;
use tokio::time::sleep;

use super::docker::{self, Networks};
use super::error::{Doing, Error};
use super::http::Http;
use super::member::{self, Plan};
use super::owner::{self, CLUSTER_LABEL, OWNER_LABEL};
use super::tls::Certificates;
use super::tool::{Output, Tool};
use super::{Access, Credential, Kind, Options, Tls, consul, etcd};

/// Generous, since it is only ever waited out by a server that has failed.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// A store that runs in containers: one server, or several that elect a leader.
///
/// Members are numbered from 0. Data outlives [`kill`](Self::kill) and [`start_again`](Self::start_again). Everything
/// is gone when this is [stopped](Self::stop) or dropped.
pub struct Cluster {
    kind: Kind,
    tls: Tls,
    run: Run,
    ports: Vec<u16>,
    /// Every member's address among its peers.
    peers: Vec<Ipv4Addr>,
    networks: Option<Networks>,
    certificates: Option<Certificates>,
    admin: Option<Credential>,
    http: Http,
}

/// The containers of a cluster, removed on drop together with whatever else carries its label.
struct Run {
    engine: Docker,
    name: String,
    containers: Vec<ContainerAsync<GenericImage>>,
    ended: bool,
}

impl Cluster {
    /// Starts `members` servers, and returns when every one of them serves linearizable reads.
    ///
    /// # Errors
    ///
    /// When there is no Docker engine, no image, or a server that does not come up; nothing is left running then.
    pub async fn start(kind: Kind, members: usize, options: Options) -> Result<Self, Error> {
        assert!(members > 0, "a cluster has members");
        let engine = docker::engine().await?;
        prepare_process(&engine).await;
        let image = options.image.clone().unwrap_or_else(|| kind.image());
        docker::provide_image(&engine, &image).await?;

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
        // The only member of a cluster has no peers, and is best off with an address that never changes.
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
        let cluster = Self { kind, tls: options.tls, run, ports, peers, networks, certificates, admin, http };
        cluster.await_all().await?;
        if let (Kind::Etcd, Some(root)) = (kind, &cluster.admin) {
            etcd::enable_access_control(&cluster.http, root).await?;
        }
        Ok(cluster)
    }

    /// Which store this is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// How many members it has, running or not.
    pub fn members(&self) -> usize {
        self.ports.len()
    }

    /// `host:port` of every member.
    pub fn endpoints(&self) -> Vec<String> {
        self.ports.iter().map(|port| format!("127.0.0.1:{port}")).collect()
    }

    /// The address for `kv_core::connect`: all members of etcd, the first of Consul, which takes one host.
    pub fn address(&self) -> String {
        self.compose(&self.default_hosts(), None)
    }

    /// The address of one member.
    ///
    /// # Panics
    ///
    /// When there is no such member, as in every method that takes one.
    pub fn address_of(&self, member: usize) -> String {
        self.compose(&self.endpoints()[member], None)
    }

    /// The same as [`address`](Self::address), with credentials.
    pub fn address_as(&self, credential: &Credential) -> String {
        self.compose(&self.default_hosts(), Some(credential))
    }

    fn default_hosts(&self) -> String {
        match self.kind {
            Kind::Etcd => self.endpoints().join(","),
            Kind::Consul => self.endpoints()[0].clone(),
        }
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
            Some(Credential::User { name, password }) => user = format!("{}:{}@", encode(name), encode(password)),
            Some(Credential::Token(token)) => parameters.push(("token", token.clone())),
            None => {}
        }
        let secure = if self.tls == Tls::Off { "" } else { "s" };
        let mut address = format!("{}{secure}://{user}{hosts}", self.kind);
        for (index, (name, value)) in parameters.iter().enumerate() {
            let separator = if index == 0 { '?' } else { '&' };
            address = format!("{address}{separator}{name}={}", encode(value));
        }
        address
    }

    /// The certificates, if clients reach this by TLS.
    pub fn certificates(&self) -> Option<&Certificates> {
        self.certificates.as_ref()
    }

    /// The credential that may do everything, if there is access control.
    pub fn admin(&self) -> Option<&Credential> {
        self.admin.as_ref()
    }

    /// Makes a credential that may only do `access` to keys that begin with `prefix`.
    ///
    /// # Errors
    ///
    /// When there is no access control, or the server refuses.
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

    /// Ends a member at once, as a crash does (SIGKILL).
    ///
    /// # Errors
    ///
    /// When it is not running.
    pub async fn kill(&self, member: usize) -> Result<(), Error> {
        let options = KillContainerOptionsBuilder::new().signal("SIGKILL").build();
        self.run.engine.kill_container(self.container(member), Some(options)).await.doing("cannot kill a member")
    }

    /// Starts a killed member and waits until it serves again, for which a cluster needs a majority.
    ///
    /// # Errors
    ///
    /// When it does not serve within a minute.
    pub async fn start_again(&self, member: usize) -> Result<(), Error> {
        self.start_container(member).await?;
        self.await_member(member).await
    }

    /// Starts every member that is not running, all at once, and waits until all serve.
    ///
    /// # Errors
    ///
    /// When they do not serve within a minute.
    pub async fn start_all_again(&self) -> Result<(), Error> {
        try_join_all((0..self.members()).map(|member| self.start_container(member))).await?;
        self.await_all().await
    }

    async fn start_container(&self, member: usize) -> Result<(), Error> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.run.engine.start_container(self.container(member), None).await {
                Err(error) if member::is_port_taken(&error.to_string()) && Instant::now() < deadline => {
                    sleep(POLL).await;
                }
                result => return result.doing("cannot start a member again"),
            }
        }
    }

    /// Stops a member from running without ending it: connections stay open, and nothing answers.
    ///
    /// # Errors
    ///
    /// When it is not running, or is paused already.
    pub async fn pause(&self, member: usize) -> Result<(), Error> {
        self.run.engine.pause_container(self.container(member)).await.doing("cannot pause a member")
    }

    /// Lets a paused member go on.
    ///
    /// # Errors
    ///
    /// When it is not paused.
    pub async fn resume(&self, member: usize) -> Result<(), Error> {
        self.run.engine.unpause_container(self.container(member)).await.doing("cannot resume a member")
    }

    /// Cuts a member off from its peers, while clients still reach it.
    ///
    /// # Errors
    ///
    /// When it has no peers, or is cut off already.
    pub async fn isolate(&self, member: usize) -> Result<(), Error> {
        self.networks()?.disconnect(&self.run.engine, self.container(member)).await
    }

    /// Ends [`isolate`](Self::isolate): the member has its peers again, at its old address.
    ///
    /// # Errors
    ///
    /// When it is not cut off.
    pub async fn rejoin(&self, member: usize) -> Result<(), Error> {
        self.networks()?.connect(&self.run.engine, self.container(member), member).await?;
        if self.kind == Kind::Consul {
            // Best effort: its peers may be down, or it may be.
            consul::join(&self.http, member, &self.peers, self.admin.as_ref()).await;
        }
        Ok(())
    }

    /// The member that a majority of members takes for the leader, if there is one.
    pub async fn leader(&self) -> Option<usize> {
        let seen = match self.kind {
            Kind::Etcd => etcd::leaders(&self.http, self.members()).await,
            Kind::Consul => consul::leaders(&self.http, &self.peers).await,
        };
        // One that is cut off goes on believing in its leader for a while, itself included.
        (0..self.members()).find(|member| {
            let votes = seen.iter().filter(|leader| **leader == Some(*member)).count();
            votes * 2 > self.members()
        })
    }

    /// Waits for a leader other than `except`.
    ///
    /// # Errors
    ///
    /// When there is none within a minute.
    pub async fn await_leader(&self, except: Option<usize>) -> Result<usize, Error> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            match self.leader().await {
                Some(leader) if Some(leader) != except => return Ok(leader),
                _ => sleep(POLL).await,
            }
        }
        Err(Error::new(format!("{} has no new leader after {PATIENCE:?}", self.kind)))
    }

    /// Whether a member answers a linearizable read now.
    pub async fn serves(&self, member: usize) -> bool {
        self.ask(member).await.is_ok_and(|serves| serves)
    }

    /// Waits until a member answers a linearizable read.
    ///
    /// # Errors
    ///
    /// When it does not within a minute, with the end of its log.
    pub async fn await_member(&self, member: usize) -> Result<(), Error> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let why = match self.ask(member).await {
                Ok(true) => return Ok(()),
                Ok(false) => "it says that it is not healthy".to_owned(),
                Err(error) => error.to_string(),
            };
            let running = self.run.containers[member].is_running().await.unwrap_or(false);
            if !running || Instant::now() > deadline {
                let log = self.log(member).await;
                let state = if running { "does not serve" } else { "has ended" };
                return Err(Error::new(format!("{} member {member} {state} ({why}); its log:\n{log}", self.kind)));
            }
            sleep(POLL).await;
        }
    }

    /// Waits until every member answers a linearizable read.
    ///
    /// # Errors
    ///
    /// When one does not within a minute, with the end of its log.
    pub async fn await_all(&self) -> Result<(), Error> {
        try_join_all((0..self.members()).map(|member| self.await_member(member))).await.map(drop)
    }

    async fn ask(&self, member: usize) -> Result<bool, Error> {
        match self.kind {
            Kind::Etcd => etcd::serves(&self.http, member).await,
            Kind::Consul => consul::serves(&self.http, member, self.members(), self.admin.as_ref()).await,
        }
    }

    /// The last lines that a member logged.
    pub async fn log(&self, member: usize) -> String {
        let options = LogsOptionsBuilder::new().stdout(true).stderr(true).tail("30").build();
        let lines = self.run.engine.logs(self.container(member), Some(options)).collect::<Vec<_>>().await;
        lines.into_iter().map(|line| line.map_or_else(|error| error.to_string(), |line| line.to_string())).collect()
    }

    /// Runs a command in a member's container to its end; `etcdctl` and `consul` need no options to find the server.
    ///
    /// # Errors
    ///
    /// When it cannot be run; a command that ran and failed is no error here.
    pub async fn exec(&self, member: usize, command: &[&str]) -> Result<Output, Error> {
        self.spawn(member, command).await?.wait().await
    }

    /// Starts a command in a member's container and leaves it running.
    ///
    /// # Errors
    ///
    /// When it cannot be run.
    pub async fn spawn(&self, member: usize, command: &[&str]) -> Result<Tool, Error> {
        Tool::start(&self.run.engine, self.container(member), command).await
    }

    /// Removes everything, and returns when it is gone.
    pub async fn stop(mut self) {
        self.run.end().await;
    }

    /// The value of [`CLUSTER_LABEL`] on all that belongs to this cluster.
    pub fn name(&self) -> &str {
        &self.run.name
    }

    fn container(&self, member: usize) -> &str {
        self.run.containers[member].id()
    }

    fn networks(&self) -> Result<&Networks, Error> {
        self.networks.as_ref().ok_or_else(|| Error::new("a single server has no peers"))
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

impl Run {
    fn new(engine: Docker) -> Self {
        let name = format!("kv-{}-{}", process::id(), random());
        Self { engine, name, containers: Vec::new(), ended: false }
    }

    async fn end(&mut self) {
        let containers = std::mem::take(&mut self.containers);
        dispose(self.engine.clone(), self.name.clone(), containers).await;
        self.ended = true;
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // testcontainers would panic here where there is no runtime, and leaves networks to whoever made them.
        let containers = std::mem::take(&mut self.containers);
        owner::block_on_thread(dispose(self.engine.clone(), self.name.clone(), containers));
    }
}

async fn dispose(engine: Docker, name: String, containers: Vec<ContainerAsync<GenericImage>>) {
    join_all(containers.into_iter().map(ContainerAsync::rm)).await;
    // What a start that failed half-way left behind, and the networks.
    owner::remove_labelled(&engine, &format!("{CLUSTER_LABEL}={name}")).await;
}

/// What a process does once, before it starts its first server.
async fn prepare_process(engine: &Docker) {
    static PREPARED: OnceCell<()> = OnceCell::const_new();
    PREPARED
        .get_or_init(|| async {
            owner::watch_signals();
            owner::reap(engine).await;
        })
        .await;
}

fn credential(kind: Kind, name: &str) -> Credential {
    match kind {
        Kind::Etcd => Credential::User { name: name.to_owned(), password: format!("pass/{}", random()) },
        Kind::Consul => {
            let (first, second) = (random(), random());
            let uuid =
                format!("{}-{}-4{}-8{}-{}", &first[..8], &first[8..12], &first[13..], &second[1..4], &second[4..]);
            Credential::Token(uuid)
        }
    }
}

/// Sixteen hexadecimal digits, random enough to be unique on one machine.
fn random() -> String {
    format!("{:016x}", RandomState::new().hash_one(process::id()))
}

fn encode(part: &str) -> impl fmt::Display {
    const DATA: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');
    utf8_percent_encode(part, DATA)
}
