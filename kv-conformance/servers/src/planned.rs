//! Planned work on members: moving leadership, defragmenting, leaving and returning, upgrading.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{TryStreamExt as _, stream};
use kv_conformance::Need;
use testcontainers::bollard::body_stream;
use testcontainers::bollard::models::ContainerCreateBody;
use testcontainers::bollard::query_parameters::{
    DownloadFromContainerOptionsBuilder, RemoveContainerOptionsBuilder, StopContainerOptionsBuilder,
    UploadToContainerOptionsBuilder,
};
use tokio::time::sleep;

use crate::cluster::Cluster;
use crate::error::{Doing, Error};
use crate::kind::Kind;
use crate::{consul, docker, etcd};

/// Upper bound of every wait; reached only by a server that has failed.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);
/// The directories where images have the server's program.
const DIRECTORIES: [&str; 2] = ["/usr/local/bin", "/usr/bin"];

impl Cluster {
    /// Whether members of this store support an operation.
    pub(super) fn offers(&self, need: Need) -> bool {
        match need {
            Need::LeaderTransfer | Need::Defragmentation => self.kind == Kind::Etcd,
            Need::Leaving => self.kind == Kind::Consul,
            Need::ReplacedHistory => self.kind == Kind::Consul || self.members() == 1,
            _ => false,
        }
    }

    /// Moves leadership to a member.
    ///
    /// # Errors
    ///
    /// If the store is Consul, which moves leadership only in versions later than 1.8, or the server refuses.
    pub async fn transfer_leader(&self, to: usize) -> Result<(), Error> {
        if self.kind != Kind::Etcd {
            return Err(Error::new("leadership of Consul cannot be moved before version 1.15"));
        }
        let leader = self.await_leader(None).await?;
        if leader == to {
            return Ok(());
        }
        etcd::transfer_leader(&self.http, leader, to, self.admin.as_ref()).await?;
        self.await_leader(Some(leader)).await.map(drop)
    }

    /// Makes a member return the space that its data no longer needs. It answers nothing during that time.
    ///
    /// # Errors
    ///
    /// If the store is Consul, which has no such operation, or the server refuses.
    pub async fn defragment(&self, member: usize) -> Result<(), Error> {
        match self.kind {
            Kind::Etcd => etcd::defragment(&self.http, member, self.admin.as_ref()).await,
            Kind::Consul => Err(Error::new("Consul is not defragmented")),
        }
    }

    /// Makes a member leave the cluster, which ends its process, and starts it again. Returns once it has a vote again.
    ///
    /// # Errors
    ///
    /// If the store is etcd, whose members are removed instead, or the member does not return within a minute.
    pub async fn leave_and_return(&self, member: usize) -> Result<(), Error> {
        if self.kind != Kind::Consul {
            return Err(Error::new("members of etcd do not leave, they are removed"));
        }
        consul::leave(&self.http, member, self.admin.as_ref()).await;
        let deadline = Instant::now() + PATIENCE;
        while self.run.containers[member].is_running().await.unwrap_or(false) {
            if Instant::now() > deadline {
                return Err(Error::new(format!("member {member} has not left; its log:\n{}", self.log(member).await)));
            }
            sleep(POLL).await;
        }
        self.start_again(member).await?;
        while !consul::all_vote(&self.http, member, self.members(), self.admin.as_ref()).await {
            if Instant::now() > deadline {
                return Err(Error::new(format!("member {member} has no vote; its log:\n{}", self.log(member).await)));
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    /// Stops a member as for maintenance, and starts it with its data as the server of another image.
    ///
    /// Only the program is replaced: the member keeps its container, and with it its address, port and data.
    ///
    /// # Errors
    ///
    /// If there is no such image, or the member does not serve within a minute.
    pub async fn upgrade(&self, member: usize, image: &str) -> Result<(), Error> {
        docker::provide_image(&self.run.engine, &[image.to_owned()]).await?;
        let program = self.program_of(image).await?;
        let options = StopContainerOptionsBuilder::new().t(10).build();
        self.run.engine.stop_container(self.container(member), Some(options)).await.doing("cannot stop a member")?;
        let directory = self.directory_of_program(self.container(member)).await?;
        let options = UploadToContainerOptionsBuilder::new().path(directory).build();
        let upload = body_stream(stream::iter(program));
        let uploading = self.run.engine.upload_to_container(self.container(member), Some(options), upload);
        uploading.await.doing("cannot replace a member's program")?;
        self.start_again(member).await
    }

    /// The server's program in an image, as an archive.
    async fn program_of(&self, image: &str) -> Result<Vec<Bytes>, Error> {
        let body = ContainerCreateBody { image: Some(image.to_owned()), ..ContainerCreateBody::default() };
        let created = self.run.engine.create_container(None, body).await.doing(format!("cannot look into {image}"))?;
        let read = async {
            let directory = self.directory_of_program(&created.id).await?;
            self.read_program(&created.id, directory).await
        };
        let program = read.await;
        let options = RemoveContainerOptionsBuilder::new().force(true).build();
        self.run.engine.remove_container(&created.id, Some(options)).await.doing("cannot remove a container")?;
        program
    }

    async fn directory_of_program(&self, container: &str) -> Result<&'static str, Error> {
        for directory in DIRECTORIES {
            if self.read_program(container, directory).await.is_ok() {
                return Ok(directory);
            }
        }
        Err(Error::new(format!("{} is in none of {DIRECTORIES:?}", self.kind)))
    }

    async fn read_program(&self, container: &str, directory: &str) -> Result<Vec<Bytes>, Error> {
        let options = DownloadFromContainerOptionsBuilder::new().path(&format!("{directory}/{}", self.kind)).build();
        let archive = self.run.engine.download_from_container(container, Some(options));
        archive.try_collect().await.doing("cannot read a server's program")
    }
}
