//! A cluster's containers and networks, and their removal.

use std::process;

use futures_util::future::join_all;
use testcontainers::bollard::Docker;
use testcontainers::{ContainerAsync, GenericImage};

use crate::owner::{self, CLUSTER_LABEL};
use crate::random::random;

/// The containers of a cluster. Dropping this removes them and everything else with the cluster's label.
pub(crate) struct Run {
    pub(crate) engine: Docker,
    pub(crate) name: String,
    pub(crate) containers: Vec<ContainerAsync<GenericImage>>,
    ended: bool,
}

impl Run {
    pub(crate) fn new(engine: Docker) -> Self {
        let name = format!("kv-{}-{}", process::id(), random());
        Self { engine, name, containers: Vec::new(), ended: false }
    }

    pub(crate) async fn end(&mut self) {
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
        // testcontainers would panic here without a runtime, and does not remove networks.
        let containers = std::mem::take(&mut self.containers);
        owner::block_on_thread(dispose(self.engine.clone(), self.name.clone(), containers));
    }
}

async fn dispose(engine: Docker, name: String, containers: Vec<ContainerAsync<GenericImage>>) {
    join_all(containers.into_iter().map(ContainerAsync::rm)).await;
    // The remains of a failed start, and the networks.
    owner::remove_labelled(&engine, &format!("{CLUSTER_LABEL}={name}")).await;
}
