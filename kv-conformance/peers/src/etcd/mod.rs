//! The contests on etcd.

pub(crate) mod client;
mod full;
mod gateway;
mod tonic;

use kv_conformance_program::bench::Failure;
use kv_core::Kv;

use crate::contest::{Contender, Contest, Figure};
use crate::load::Load;
use crate::ours;

pub(crate) const STORE: &str = "etcd";

/// Every contest, on a server at `endpoint` (`host:port`), where the keys exist.
pub(crate) async fn contests(kv: &Kv, endpoint: &str, load: &Load) -> Result<Vec<Contest>, Failure> {
    let client = etcd_client::Client::connect([endpoint], None).await?;
    let channel = tonic::connect(endpoint).await?;
    let gateway = gateway::Gateway::new(endpoint)?;
    let contest =
        |call, callers, figure, ours, peers| Contest { store: STORE, call, callers, burst: 1, figure, ours, peers };
    let mut contests = Vec::new();
    for (callers, target) in [(1, 0.97), (16, 2.0), (128, 4.0)] {
        let peers: Vec<Contender> = vec![
            client::get(&client, load, callers).target(target),
            tonic::get(&channel, load, callers),
            gateway::get(&gateway, load, callers),
        ];
        contests.push(contest("get", callers, Figure::Rate, ours::get(kv, load, callers), peers));
        let peers: Vec<Contender> = vec![
            client::set(&client, load, callers).target(target),
            tonic::set(&channel, load, callers),
            gateway::set(&gateway, load, callers),
        ];
        contests.push(contest("set", callers, Figure::Rate, ours::set(kv, load, callers), peers));
    }
    for contest in contests.iter_mut().filter(|contest| contest.callers > 1) {
        let full = if contest.call == "get" { full::get } else { full::set };
        contest.peers.push(full(&channel, load, contest.callers));
    }
    let peers = vec![client::update(&client, load).target(3.0), full::update(&channel, load, 128)];
    contests.push(contest("update", 128, Figure::Rate, ours::update(kv, load), peers));
    let peers = vec![client::list(&client, load).target(1.0), tonic::list(&channel, load)];
    contests.push(contest("get_all of 10,000", 1, Figure::Latency, ours::list(kv, load), peers));
    let peers = vec![tonic::watch(&channel, load).target(1.1), client::watch(&client, load)];
    contests.push(contest("put to event", 1, Figure::Latency, ours::watch(kv, load), peers));
    Ok(contests)
}

/// Compacts the history of the writes, so that it does not slow the next contender down.
pub(crate) async fn compact(endpoint: &str) -> Result<(), Failure> {
    let mut client = etcd_client::Client::connect([endpoint], None).await?;
    // A new write comes first, because it is an error to compact the same revision twice.
    let put = client.put("compacted", "", None).await?;
    let revision = put.header().map_or(0, etcd_client::ResponseHeader::revision);
    client.compact(revision, Some(etcd_client::CompactionOptions::new().with_physical())).await?;
    Ok(())
}
