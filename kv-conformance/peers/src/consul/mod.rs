//! The contests on Consul.

pub(crate) mod bare;
mod client;

use kv_conformance_program::bench::Failure;
use kv_core::Kv;
use tokio::sync::Semaphore;

use crate::contest::{Contest, Figure};
use crate::load::Load;
use crate::ours;

pub(crate) const STORE: &str = "Consul";

/// Every contest, on an agent at `endpoint` (`host:port`), where the keys exist.
pub(crate) fn contests(kv: &Kv, endpoint: &str, load: &Load) -> Result<Vec<Contest>, Failure> {
    let bare = bare::Agent::new(endpoint, Semaphore::MAX_PERMITS)?;
    let client = client::connect(endpoint);
    let contest =
        |call, callers, figure, ours, peers| Contest { store: STORE, call, callers, burst: 1, figure, ours, peers };
    let mut contests = Vec::new();
    for callers in [1, 16] {
        let mut readers = vec![bare::get(&bare, load, callers).target(0.95)];
        let mut writers = vec![bare::set_by_txn(&bare, load, callers).target(0.95), bare::set(&bare, load, callers)];
        // It opens a connection for each call, so with more callers the results of runs differ widely.
        if callers == 1 {
            readers.push(client::get(&client, load, callers).target(1.7));
            writers.push(client::set(&client, load, callers).target(1.7));
        }
        contests.push(contest("get", callers, Figure::Rate, ours::get(kv, load, callers), readers));
        contests.push(contest("set", callers, Figure::Rate, ours::set(kv, load, callers), writers));
    }
    let peers = vec![bare::get(&bare, load, 128)];
    contests.push(contest("get", 128, Figure::Rate, ours::get(kv, load, 128), peers));
    let peers = vec![bare::set(&bare, load, 128).target(2.0)];
    contests.push(contest("set", 128, Figure::Rate, ours::set(kv, load, 128), peers));
    let peers = vec![bare::list(&bare, load).target(1.15), client::list(&client, load)];
    contests.push(contest("get_all of 10,000", 1, Figure::Latency, ours::list(kv, load), peers));
    let peers = vec![bare::watch(&bare, load).target(1.1)];
    contests.push(contest("put to event", 1, Figure::Latency, ours::watch(kv, load), peers));
    Ok(contests)
}
