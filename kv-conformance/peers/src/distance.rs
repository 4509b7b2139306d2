//! The same calls with the servers some way off: how many round trips they take.
//!
//! Callers that each make five calls, one after the other, and all at once. Five round trips are the least.

use std::fmt::Write as _;
use std::time::Duration;

use kv_conformance::chaos::distance::Distance;
use kv_conformance_program::bench::{Failure, Plan, Sample, Spread};
use kv_core::Registry;

use crate::contest::Contender;
use crate::load::Load;
use crate::{consul, etcd, go, ours};

/// The round trips; with none, the servers are reached without a relay.
pub(crate) const ROUND_TRIPS: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(2), Duration::from_millis(10), Duration::from_millis(100)];
const CALLERS: [usize; 5] = [1, 16, 128, 1000, 4000];
const CALLS: u32 = 5;

/// An agent takes 200 connections from one address.
const CONNECTIONS: usize = 190;

/// One load at one distance.
pub(crate) struct Row {
    pub(crate) store: &'static str,
    pub(crate) call: &'static str,
    pub(crate) round_trip: Duration,
    pub(crate) callers: usize,
    /// This project first.
    pub(crate) results: Vec<Outcome>,
}

/// What a contender needed.
pub(crate) struct Outcome {
    pub(crate) name: &'static str,
    /// In seconds; the rounds in their order.
    pub(crate) times: Vec<f64>,
    /// How many calls failed in all rounds, and why the first one did.
    pub(crate) failed: u64,
    pub(crate) failure: Option<String>,
}

impl Outcome {
    fn new(name: &'static str) -> Self {
        Self { name, times: Vec::new(), failed: 0, failure: None }
    }

    fn add(&mut self, sample: Sample) {
        self.times.push(sample.span.as_secs_f64());
        self.failed += sample.failed;
        self.failure = self.failure.take().or(sample.failure);
    }

    pub(crate) fn median(&self) -> f64 {
        Spread::of(self.times.iter().copied()).median
    }
}

impl Row {
    pub(crate) fn ours(&self) -> &Outcome {
        &self.results[0]
    }

    /// The fastest peer none of whose calls failed.
    pub(crate) fn best_peer(&self) -> Option<&Outcome> {
        let served = self.results[1..].iter().filter(|peer| peer.failed == 0);
        served.min_by(|one, other| one.median().total_cmp(&other.median()))
    }

    /// How many times as fast as that peer this project is, round by round.
    pub(crate) fn speed(&self) -> Option<Spread> {
        let peer = self.best_peer()?;
        Some(Spread::of(peer.times.iter().zip(&self.ours().times).map(|(theirs, ours)| theirs / ours)))
    }

    pub(crate) fn line(&self) -> String {
        let mut line = format!("| {} | {} | {} | {}", self.store, self.call, way(self.round_trip), self.callers);
        for outcome in &self.results {
            let _ = write!(line, " | {}", self.figure(outcome));
        }
        // Not every store has as many peers.
        for _ in self.results.len()..1 + PEERS {
            line.push_str(" | ");
        }
        let speed = self.speed().map_or_else(String::new, |Spread { least, median, most }| {
            format!("**{median:.2}** ({least:.2} .. {most:.2})")
        });
        let _ = write!(line, " | {speed} |");
        line
    }

    fn figure(&self, outcome: &Outcome) -> String {
        let time = outcome.median();
        let figure = if self.round_trip.is_zero() {
            format!("{:.1} ms", time * 1e3)
        } else {
            format!("{:.1}", time / self.round_trip.as_secs_f64())
        };
        if outcome.failed == 0 { figure } else { format!("{figure}, {} failed", outcome.failed) }
    }
}

/// How many peers there are of a store at most.
const PEERS: usize = 2;

fn way(round_trip: Duration) -> String {
    if round_trip.is_zero() { "beside".to_owned() } else { format!("{} ms", round_trip.as_millis()) }
}

/// Runs everything whose name, such as `etcd set 128 100 ms`, contains `filter`.
pub(crate) async fn run(
    servers: (&str, &str),
    load: &Load,
    filter: &str,
    rounds: usize,
    done: impl Fn(&Row),
) -> Result<Vec<Row>, Failure> {
    let go = go::build().await?;
    let mut rows = Vec::new();
    for round_trip in ROUND_TRIPS {
        for (store, server) in [(etcd::STORE, servers.0), (consul::STORE, servers.1)] {
            let relay = Distance::to(server, round_trip).await?;
            let endpoint = if round_trip.is_zero() { server } else { relay.endpoint() };
            let clients = Clients::connect(store, endpoint, go.as_deref()).await?;
            for callers in CALLERS {
                for call in ["set", "get"] {
                    let name = format!("{store} {call} {callers} {}", way(round_trip));
                    if name.contains(filter) {
                        let contenders = clients.contenders(call, load, callers);
                        let results = compete(&contenders, callers, rounds).await?;
                        let row = Row { store, call, round_trip, callers, results };
                        done(&row);
                        rows.push(row);
                    }
                }
            }
        }
    }
    Ok(rows)
}

async fn compete(contenders: &[Contender], callers: usize, rounds: usize) -> Result<Vec<Outcome>, Failure> {
    let plan = Plan { callers, calls: Some(CALLS), ..Plan::default() };
    let mut outcomes: Vec<Outcome> = contenders.iter().map(|contender| Outcome::new(contender.name)).collect();
    for round in 0..rounds {
        for turn in 0..contenders.len() {
            let at = (round + turn) % contenders.len();
            outcomes[at].add(contenders[at].sample(plan.clone()).await?);
        }
    }
    Ok(outcomes)
}

/// The clients of one store at one distance, each connected.
struct Clients {
    kv: kv_core::Kv,
    rust: Rust,
    go: Option<go::Client>,
}

enum Rust {
    Etcd(etcd_client::Client),
    Consul(consul::bare::Agent),
}

impl Clients {
    async fn connect(store: &str, endpoint: &str, go: Option<&str>) -> Result<Self, Failure> {
        let registry = Registry::new().with(kv_etcd::REGISTRATION).with(kv_consul::REGISTRATION);
        let (scheme, rust) = if store == etcd::STORE {
            ("etcd", Rust::Etcd(etcd_client::Client::connect([endpoint], None).await?))
        } else {
            ("consul", Rust::Consul(consul::bare::Agent::new(endpoint, CONNECTIONS)?))
        };
        let kv = registry.connect(&format!("{scheme}://{endpoint}")).await?;
        let go = go.map(|program| go::Client::start(program, scheme, endpoint)).transpose()?;
        Ok(Self { kv, rust, go })
    }

    fn contenders(&self, call: &'static str, load: &Load, callers: usize) -> Vec<Contender> {
        let is_set = call == "set";
        let ours = if is_set { ours::set } else { ours::get };
        let rust = match &self.rust {
            Rust::Etcd(client) if is_set => etcd::client::set(client, load, callers),
            Rust::Etcd(client) => etcd::client::get(client, load, callers),
            Rust::Consul(agent) if is_set => consul::bare::set(agent, load, callers),
            Rust::Consul(agent) => consul::bare::get(agent, load, callers),
        };
        let mut contenders = vec![ours(&self.kv, load, callers), rust];
        contenders.extend(self.go.as_ref().map(|go| go.contender("Go", call)));
        contenders
    }
}

/// All rows as a table.
pub(crate) fn table(rows: &[Row], about: &str) -> String {
    let mut table = String::from(
        "| store | call | round trip | callers | this project | the Rust peer | Go's client | the best peer's time over \
         this project's |\n|---|---|--:|--:|--:|--:|--:|--:|\n",
    );
    for row in rows {
        let _ = writeln!(table, "{}", row.line());
    }
    let _ = writeln!(table, "\n{about}.");
    table
}
