//! Fault injection into a cluster's members, and questions about their state.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use kv_conformance::Census;
use testcontainers::bollard::query_parameters::{KillContainerOptionsBuilder, StopContainerOptionsBuilder};
use tokio::time::sleep;

use crate::cluster::Cluster;
use crate::docker::Networks;
use crate::error::{Doing, Error};
use crate::kind::Kind;
use crate::{consul, etcd, member};

/// Upper bound of every wait; reached only by a server that has failed.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

impl Cluster {
    /// Kills a member at once, like a crash (SIGKILL).
    ///
    /// # Errors
    ///
    /// If it is not running.
    pub async fn kill(&self, member: usize) -> Result<(), Error> {
        let options = KillContainerOptionsBuilder::new().signal("SIGKILL").build();
        self.run.engine.kill_container(self.container(member), Some(options)).await.doing("cannot kill a member")
    }

    /// Starts a killed member and waits until it serves again. Serving needs a majority of the members.
    ///
    /// # Errors
    ///
    /// If it does not serve within a minute.
    pub async fn start_again(&self, member: usize) -> Result<(), Error> {
        self.start_container(member).await?;
        self.await_member(member).await
    }

    /// Starts all members that are not running, concurrently, and waits until all serve.
    ///
    /// # Errors
    ///
    /// If they do not serve within a minute.
    pub async fn start_all_again(&self) -> Result<(), Error> {
        try_join_all((0..self.members()).map(|member| self.start_container(member))).await?;
        self.await_all().await
    }

    /// Stops a member gracefully (SIGTERM), starts it again, and waits until it serves.
    ///
    /// # Errors
    ///
    /// If it is not running, or does not serve within a minute.
    pub async fn restart(&self, member: usize) -> Result<(), Error> {
        let options = StopContainerOptionsBuilder::new().t(10).build();
        self.run.engine.stop_container(self.container(member), Some(options)).await.doing("cannot stop a member")?;
        self.start_again(member).await
    }

    /// Compacts etcd's history up to the current revision.
    ///
    /// # Errors
    ///
    /// If the store is Consul, which keeps no history, or does not answer.
    pub async fn compact(&self) -> Result<(), Error> {
        match self.kind {
            Kind::Etcd => etcd::compact(&self.http, self.first_serving().await?, self.admin.as_ref()).await,
            Kind::Consul => Err(Error::new("Consul keeps no history")),
        }
    }

    /// Counts the resources that the cluster holds for its clients, with the connections to all members.
    ///
    /// # Errors
    ///
    /// If a member does not answer.
    pub async fn census(&self) -> Result<Census, Error> {
        let members = 0..self.members();
        match self.kind {
            Kind::Etcd => etcd::census(&self.http, members, self.admin.as_ref()).await,
            Kind::Consul => consul::census(&self.http, members, self.admin.as_ref()).await,
        }
    }

    async fn first_serving(&self) -> Result<usize, Error> {
        for member in 0..self.members() {
            if self.serves(member).await {
                return Ok(member);
            }
        }
        Err(Error::new("no member serves"))
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

    /// Pauses a member: its connections stay open, but nothing answers.
    ///
    /// # Errors
    ///
    /// If it is not running, or already paused.
    pub async fn pause(&self, member: usize) -> Result<(), Error> {
        self.run.engine.pause_container(self.container(member)).await.doing("cannot pause a member")
    }

    /// Resumes a paused member.
    ///
    /// # Errors
    ///
    /// If it is not paused.
    pub async fn resume(&self, member: usize) -> Result<(), Error> {
        self.run.engine.unpause_container(self.container(member)).await.doing("cannot resume a member")
    }

    /// Isolates a member from its peers; clients still reach it.
    ///
    /// # Errors
    ///
    /// If it has no peers, or is already isolated.
    pub async fn isolate(&self, member: usize) -> Result<(), Error> {
        self.networks()?.disconnect(&self.run.engine, self.container(member)).await
    }

    /// Ends [`isolate`](Self::isolate): the member reaches its peers again, at its previous address.
    ///
    /// # Errors
    ///
    /// If it is not isolated.
    pub async fn rejoin(&self, member: usize) -> Result<(), Error> {
        self.networks()?.connect(&self.run.engine, self.container(member), member).await?;
        if self.kind == Kind::Consul {
            // Best effort: the member or its peers may be down.
            consul::join(&self.http, member, &self.peers, self.admin.as_ref()).await;
        }
        Ok(())
    }

    /// The member that a majority of members sees as the leader, if any.
    pub async fn leader(&self) -> Option<usize> {
        let seen = match self.kind {
            Kind::Etcd => etcd::leaders(&self.http, self.members(), self.admin.as_ref()).await,
            Kind::Consul => consul::leaders(&self.http, &self.peers).await,
        };
        // An isolated member still reports its former leader, possibly itself, for a while.
        (0..self.members()).find(|member| {
            let votes = seen.iter().filter(|leader| **leader == Some(*member)).count();
            votes * 2 > self.members()
        })
    }

    /// Waits for a leader other than `except`.
    ///
    /// # Errors
    ///
    /// If there is none within a minute.
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

    /// Whether a member answers a linearizable read now, even if it does not know all of its peers.
    pub(crate) async fn reads(&self, member: usize) -> bool {
        match self.kind {
            Kind::Etcd => etcd::serves(&self.http, member).await.is_ok_and(|serves| serves),
            Kind::Consul => consul::reads(&self.http, member, self.admin.as_ref()).await.is_ok(),
        }
    }

    /// Waits until a member answers a linearizable read.
    ///
    /// # Errors
    ///
    /// If it does not within a minute; the error has the end of its log.
    pub async fn await_member(&self, member: usize) -> Result<(), Error> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let why = match self.ask(member).await {
                Ok(true) => return Ok(()),
                Ok(false) => "it reports that it is not healthy".to_owned(),
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
    /// If one does not within a minute; the error has the end of its log.
    pub async fn await_all(&self) -> Result<(), Error> {
        try_join_all((0..self.members()).map(|member| self.await_member(member))).await.map(drop)
    }

    async fn ask(&self, member: usize) -> Result<bool, Error> {
        match self.kind {
            Kind::Etcd => etcd::serves(&self.http, member).await,
            Kind::Consul => consul::serves(&self.http, member, self.members(), self.admin.as_ref()).await,
        }
    }

    fn networks(&self) -> Result<&Networks, Error> {
        self.networks.as_ref().ok_or_else(|| Error::new("a single server has no peers"))
    }
}
