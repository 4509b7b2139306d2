//! The owners of containers and networks, so that nothing outlives its run.
//!
//! Each container and network has a label that names the process that created it. A process that is killed cannot
//! remove what it created, so the next run removes it. The label distinguishes dead owners from running ones, so
//! nothing else is removed.

use std::collections::HashMap;
use std::fs;
use std::process;
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use futures_util::future::join_all;
use testcontainers::bollard::Docker;
use testcontainers::bollard::query_parameters::{
    ListContainersOptionsBuilder, ListNetworksOptionsBuilder, RemoveContainerOptionsBuilder,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use crate::docker;

/// The label whose value is the owning process.
pub const OWNER_LABEL: &str = "kv-conformance.owner";
/// The label whose value is the cluster, unique to each.
pub const CLUSTER_LABEL: &str = "kv-conformance.cluster";

/// The value of [`OWNER_LABEL`] for this process: process-id namespace, process id, start time.
///
/// A process id alone is reused, and means another process in another container.
pub fn this_process() -> String {
    let pid = process::id();
    format!("{}.{pid}.{}", namespace(), start_time(pid).unwrap_or_default())
}

fn namespace() -> String {
    let link = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    link.to_string_lossy().chars().filter(char::is_ascii_digit).collect()
}

/// The start of a process, in clock ticks since boot; `None` if there is no such process.
fn start_time(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name is the second field, in parentheses. It may itself contain spaces and parentheses.
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(19).map(str::to_owned)
}

/// Whether an owner is certainly gone. An owner in another namespace cannot be judged, and counts as alive.
fn is_gone(owner: &str) -> bool {
    let mut parts = owner.split('.');
    let (Some(space), Some(pid), Some(started)) = (parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let Ok(pid) = pid.parse() else {
        return false;
    };
    !started.is_empty() && space == namespace() && start_time(pid).as_deref() != Some(started)
}

/// Removes what earlier runs have left behind.
pub(crate) async fn reap(engine: &Docker) {
    let containers = ListContainersOptionsBuilder::new().all(true).filters(&filter(OWNER_LABEL)).build();
    let networks = ListNetworksOptionsBuilder::new().filters(&filter(OWNER_LABEL)).build();
    let labels = engine.list_containers(Some(containers)).await.unwrap_or_default().into_iter().map(|c| c.labels);
    let more = engine.list_networks(Some(networks)).await.unwrap_or_default().into_iter().map(|n| n.labels);
    let mut gone: Vec<String> =
        labels.chain(more).filter_map(|labels| labels?.remove(OWNER_LABEL)).filter(|owner| is_gone(owner)).collect();
    gone.sort();
    gone.dedup();
    for owner in gone {
        remove_labelled(engine, &format!("{OWNER_LABEL}={owner}")).await;
    }
}

/// Removes every container and network with a label, as far as the engine permits.
pub(crate) async fn remove_labelled(engine: &Docker, label: &str) {
    let containers = ListContainersOptionsBuilder::new().all(true).filters(&filter(label)).build();
    let removals = engine
        .list_containers(Some(containers))
        .await
        .unwrap_or_default()
        .into_iter()
        .filter_map(|container| container.id)
        .map(|id| async move {
            let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
            // A removal that another process has begun is enough.
            let _ = engine.remove_container(&id, Some(options)).await;
        });
    join_all(removals).await;

    let networks = ListNetworksOptionsBuilder::new().filters(&filter(label)).build();
    let removals = engine
        .list_networks(Some(networks))
        .await
        .unwrap_or_default()
        .into_iter()
        .filter_map(|network| network.id)
        .map(|id| async move {
            let _ = engine.remove_network(&id).await;
        });
    join_all(removals).await;
}

fn filter(label: &str) -> HashMap<String, Vec<String>> {
    HashMap::from([("label".to_owned(), vec![label.to_owned()])])
}

/// Runs a future to its end from anywhere: within a runtime of any kind, without one, and in a destructor.
pub(crate) fn block_on_thread(future: impl Future<Output = ()> + Send + 'static) {
    let worker = thread::spawn(move || {
        if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() {
            runtime.block_on(future);
        }
    });
    // The thread has reported its own panic, and a destructor must not add another one.
    let _ = worker.join();
}

/// Makes Ctrl-C, SIGTERM and SIGHUP remove everything that this process owns before they end it.
pub(crate) fn watch_signals() {
    static WATCHING: OnceLock<()> = OnceLock::new();
    WATCHING.get_or_init(|| {
        // The handler has a thread of its own, because the runtime that starts the first server may end before the last
        // server.
        thread::spawn(|| {
            if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() {
                runtime.block_on(end_by_signal());
            }
        });
    });
}

async fn end_by_signal() {
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let mut signals: Vec<_> = kinds.iter().filter_map(|kind| Some((*kind, signal(*kind).ok()?))).collect();
    let received = signals.iter_mut().map(|(kind, signal)| {
        Box::pin(async move {
            signal.recv().await;
            *kind
        })
    });
    let (kind, ..) = futures_util::future::select_all(received).await;
    let removal = async {
        if let Ok(engine) = docker::engine().await {
            remove_labelled(&engine, &format!("{OWNER_LABEL}={}", this_process())).await;
        }
    };
    // The wait is bounded, because an engine that hangs must not keep the process from ending. The next run removes
    // what is left.
    let _ = timeout(Duration::from_secs(10), removal).await;
    process::exit(128 + kind.as_raw_value());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_owner_is_not_gone_and_its_successor_is() {
        let me = this_process();
        assert!(!is_gone(&me));
        assert!(is_gone(&format!("{me}0")), "same process id, another start time");
        assert!(!is_gone("1.1.1"), "another namespace cannot be judged");
        assert!(!is_gone("nonsense"));
    }
}
