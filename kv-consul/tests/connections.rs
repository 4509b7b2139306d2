//! Several processes share the connections that an agent takes from one address. Needs Docker.

mod support;

use kv_conformance_servers::Options;
use kv_core::{Kv, Watch};
use support::{connect, soon, start};
use tokio::task::JoinSet;

const PROCESSES: usize = 6;
const WATCHES: usize = 40;
const WRITERS: usize = 8;
const WRITES: usize = 25;

/// Opens the watches of one process, each on a prefix of its own.
async fn watch_all(kv: Kv, process: usize) -> (Kv, Vec<Watch>) {
    let mut watches = Vec::new();
    for number in 0..WATCHES {
        watches.push(kv.watch(&format!("{process}/{number}/"), 0).await.expect("a watch"));
    }
    (kv, watches)
}

/// An agent closes every connection beyond 200 from one address (`limits.http_max_conns_per_client`). Handles that are
/// connected apart share nothing, like processes.
#[tokio::test(flavor = "multi_thread")]
async fn six_processes_with_many_watches_starve_no_write() {
    let cluster = start(Options::default()).await;
    let mut opening = JoinSet::new();
    for process in 0..PROCESSES {
        let address = cluster.address();
        opening.spawn(async move { watch_all(connect(&address).await, process).await });
    }
    let processes = soon("every watch", opening.join_all()).await;
    let mut writing = JoinSet::new();
    for (process, (kv, _)) in processes.iter().enumerate() {
        for writer in 0..WRITERS {
            let kv = kv.clone();
            writing.spawn(async move {
                for write in 0..WRITES {
                    let key = format!("{process}/{}/{writer}", write % WATCHES);
                    kv.set(&key, write.to_string()).await.expect("a write beside watches");
                    kv.get(&key).await.expect("a read beside watches");
                }
            });
        }
    }
    soon("every write", writing.join_all()).await;
    for (kv, mut watches) in processes {
        for watch in watches.iter_mut().take(WRITES) {
            soon("an event", watch.next()).await.expect("the watch goes on").expect("an event");
        }
        kv.close().await.expect("nothing is held");
    }
    cluster.stop().await;
}
