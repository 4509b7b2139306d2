//! Measures the speed of this project relative to its peers: the same load, in one process and one run.
//!
//! Starts servers of its own in Docker, runs every contest round by round, and prints the ratios with their spread.

mod chart;
mod consul;
mod contest;
mod distance;
mod etcd;
mod go;
mod http;
mod load;
mod memory;
mod ours;
mod report;

use std::io::IsTerminal as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use kv_conformance::write_between_marks;
use kv_conformance_program::bench::Failure;
use kv_conformance_servers::{Cluster, Kind, Options};
use kv_core::{Kv, Registry};

use crate::contest::{Contest, Outcome};
use crate::load::Load;
use crate::report::Report;

/// Compares this project with other clients and maps, on servers that it starts in Docker.
#[derive(Parser)]
struct Arguments {
    /// Runs only the contests whose names, such as `etcd set 16`, contain this text.
    #[arg(long, value_name = "TEXT", default_value = "")]
    filter: String,
    /// How many rounds to run. In each round, every contender runs once; a ratio compares two runs of one round.
    #[arg(long, value_name = "NUMBER", default_value_t = 5)]
    rounds: usize,
    /// The measured time of each run, in milliseconds. The warm-up takes a third more.
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 450)]
    duration: u64,
    /// Keeps the servers' data on Docker's disk instead of in memory, so that the disk is measured too.
    #[arg(long)]
    on_disk: bool,
    /// Measures how many round trips calls take with the servers some way off, instead of the calls a second beside them.
    #[arg(long)]
    distance: bool,
    /// Writes the table to this crate's README.md, and the chart beside it.
    #[arg(long)]
    write: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<(), Failure> {
    let options = || if arguments.on_disk { Options::default() } else { Options::default().in_memory() };
    // Room for everything that is written between two compactions.
    let etcd = Cluster::start(Kind::Etcd, 1, options().argument("--quota-backend-bytes=8589934592")).await?;
    // Each peer has a connection for each caller.
    let limits = "-hcl=limits { http_max_conns_per_client = 2000 }";
    let consul = Cluster::start(Kind::Consul, 1, options().argument(limits)).await?;
    if arguments.distance {
        let result = far(arguments, &etcd, &consul).await;
        etcd.stop().await;
        consul.stop().await;
        return result;
    }
    let result = compare(arguments, &etcd, &consul).await;
    etcd.stop().await;
    consul.stop().await;
    let report = result?;
    print!("{}", report.table());
    if arguments.write {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        std::fs::write(here.join("speed.svg"), chart::svg(&report))?;
        write_between_marks(&here.join("README.md"), "speed", &report.table())?;
    }
    Ok(())
}

async fn compare(arguments: &Arguments, etcd: &Cluster, consul: &Cluster) -> Result<Report, Failure> {
    let registry =
        Registry::new().with(kv_etcd::REGISTRATION).with(kv_consul::REGISTRATION).with(kv_memory::REGISTRATION);
    let load = &Load::new();
    // rs-consul opens a connection for each call. At the container's own address, this slows it down earlier.
    let (etcd_endpoint, consul_endpoint) = (&own_endpoint(etcd, 2379).await, &consul.endpoints()[0]);
    let on_etcd = filled(registry.connect(&format!("etcd://{etcd_endpoint}")).await?, load).await?;
    let on_consul = filled(registry.connect(&format!("consul://{consul_endpoint}")).await?, load).await?;
    let in_memory = filled(registry.connect("memory://").await?, load).await?;

    let mut contests = etcd::contests(&on_etcd, etcd_endpoint, load).await?;
    contests.extend(consul::contests(&on_consul, consul_endpoint, load)?);
    contests.extend(memory::contests(&in_memory, load).await?);
    contests.retain(|contest| name(contest).contains(&arguments.filter));

    let bar = progress(contests.iter().map(Contest::runs).sum::<usize>() * arguments.rounds);
    let measured = Duration::from_millis(arguments.duration);
    let mut outcomes = Vec::new();
    for contest in &contests {
        let name = name(contest);
        let tell = |contender| {
            bar.set_message(format!("{name} by {contender}"));
            bar.inc(1);
        };
        let came: Vec<Outcome> = contest.run(arguments.rounds, measured / 3, measured, tell).await?;
        for outcome in &came {
            bar.suspend(|| eprintln!("{}", report::line(outcome)));
        }
        outcomes.extend(came);
        if contest.store == etcd::STORE {
            etcd::compact(etcd_endpoint).await?;
        }
    }
    bar.finish_and_clear();
    let servers = [(etcd::STORE, etcd.version().await?), (consul::STORE, consul.version().await?)];
    Ok(Report::new(outcomes, arguments.rounds, measured, &servers))
}

/// Compares with the servers some way off.
async fn far(arguments: &Arguments, etcd: &Cluster, consul: &Cluster) -> Result<(), Failure> {
    let load = Load::new();
    let (etcd_endpoint, consul_endpoint) = (own_endpoint(etcd, 2379).await, own_endpoint(consul, 8500).await);
    let registry = Registry::new().with(kv_etcd::REGISTRATION).with(kv_consul::REGISTRATION);
    for address in [format!("etcd://{etcd_endpoint}"), format!("consul://{consul_endpoint}")] {
        filled(registry.connect(&address).await?, &load).await?;
    }
    let done = |row: &distance::Row| eprintln!("{}", row.line());
    let servers = (&*etcd_endpoint, &*consul_endpoint);
    let rows = distance::run(servers, &load, &arguments.filter, arguments.rounds, done).await?;
    let versions = [(etcd::STORE, etcd.version().await?), (consul::STORE, consul.version().await?)];
    let rounds = format!("medians of {} rounds", arguments.rounds);
    let table = distance::table(&rows, &report::about(&rounds, &versions));
    print!("{table}");
    if arguments.write {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        std::fs::write(here.join("distance.svg"), chart::of_distances(&rows))?;
        write_between_marks(&here.join("README.md"), "distance", &table)?;
    }
    Ok(())
}

/// Where a server is reached: at its container's own address if this machine has a way there, so that nothing stands
/// between, else at the port that Docker passes on.
async fn own_endpoint(cluster: &Cluster, port: u16) -> String {
    if let Ok(hosts) = cluster.exec(0, &["cat", "/etc/hosts"]).await
        && let Some(address) = hosts.stdout.lines().last().and_then(|line| line.split_whitespace().next())
    {
        let own = format!("{address}:{port}");
        let connecting = tokio::net::TcpStream::connect(&own);
        if let Ok(Ok(_)) = tokio::time::timeout(Duration::from_secs(1), connecting).await {
            return own;
        }
    }
    cluster.endpoints().swap_remove(0)
}

async fn filled(kv: Kv, load: &Load) -> Result<Kv, Failure> {
    load.keys.fill(&kv, &load.value).await?;
    Ok(kv)
}

fn name(contest: &Contest) -> String {
    format!("{} {} {}", contest.store, contest.call, contest.callers)
}

fn progress(runs: usize) -> ProgressBar {
    let bar = if std::io::stderr().is_terminal() { ProgressBar::new(runs as u64) } else { ProgressBar::hidden() };
    match ProgressStyle::with_template("[{bar:40}] {pos}/{len} {msg}, {eta} left") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
