//! Stores that are reached through endpoints, for the clauses that a store without members cannot break.
//!
//! Three members let the calls of clients pass to one memory store. Members can be restarted, made to hang or to refuse,
//! and relays can stand before them, as before real servers. Each fault names the case that must find it; without a
//! fault, every one of these cases passes.

mod client;
mod fault;
mod member;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::try_join_all;
use kv_conformance::{CASES, Census, Faults, Fixture, Need, Suite, Verdict};
use kv_core::{Kv, Limits};
use kv_memory::MemoryBackend;
use libtest_mimic::Failed;
use tokio::time::sleep;

pub(crate) use self::fault::FAULTS;

use self::client::{Client, Granted};
use self::fault::Fault;
use self::member::{Member, Mood};
use crate::known_locks::lock;

/// How long the members have no leader.
const ELECTION: Duration = Duration::from_millis(300);
/// How long a member is away that restarts.
const RESTART: Duration = Duration::from_millis(300);

struct RemoteFixture {
    fault: Option<Fault>,
    store: MemoryBackend,
    granted: Granted,
    members: Vec<Member>,
    leader: AtomicUsize,
}

impl RemoteFixture {
    async fn start(fault: Option<Fault>) -> std::io::Result<Self> {
        let members = try_join_all((0..3).map(|_| Member::start())).await?;
        let (store, leader) = (MemoryBackend::new(), AtomicUsize::new(0));
        Ok(Self { fault, store, granted: Granted::default(), members, leader })
    }

    fn client(&self, endpoints: &[String]) -> Kv {
        Kv::new(Arc::new(Client::new(self.fault, self.store.clone(), self.granted.clone(), endpoints)))
    }

    fn leader(&self) -> usize {
        self.leader.load(Ordering::Relaxed)
    }

    /// Has the members elect another leader, and serve nobody meanwhile.
    async fn elect(&self, leader: usize, voters: impl Fn(usize) -> bool) {
        let voters: Vec<&Member> =
            self.members.iter().enumerate().filter(|(number, _)| voters(*number)).map(|(_, member)| member).collect();
        for voter in &voters {
            voter.turn(Mood::Refuses);
        }
        sleep(ELECTION).await;
        self.leader.store(leader, Ordering::Relaxed);
        for voter in &voters {
            voter.turn(Mood::Serves);
        }
    }
}

#[async_trait]
impl Fixture for RemoteFixture {
    fn name(&self) -> String {
        format!("{:?}", self.fault)
    }

    async fn connect(&self) -> kv_core::Result<Kv> {
        Ok(self.client(&self.endpoints()))
    }

    fn ttl(&self, _: &Limits) -> Duration {
        Duration::from_millis(500)
    }

    fn histories(&self) -> Option<PathBuf> {
        None
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(if self.fault.is_some() { 5 } else { 60 })
    }

    fn faults(&self) -> Option<&dyn Faults> {
        Some(self)
    }
}

#[async_trait]
impl Faults for RemoteFixture {
    fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| member.endpoint.clone()).collect()
    }

    async fn connect_to(&self, endpoints: &[String]) -> kv_core::Result<Kv> {
        Ok(self.client(endpoints))
    }

    async fn census(&self) -> Result<Census, String> {
        Ok(Census { connections: 0, leases: 0, keys: 0 })
    }

    async fn leader(&self) -> Result<usize, String> {
        Ok(self.leader())
    }

    async fn serves(&self) -> bool {
        self.members.iter().any(Member::serves)
    }

    async fn kill(&self, member: usize) -> Result<(), String> {
        self.members[member].turn(Mood::Down);
        Ok(())
    }

    async fn start_again(&self, member: usize) -> Result<(), String> {
        self.members[member].turn(Mood::Serves);
        Ok(())
    }

    async fn restart(&self, member: usize) -> Result<(), String> {
        self.members[member].turn(Mood::Down);
        if self.leader() == member {
            self.elect((member + 1) % self.members.len(), |voter| voter != member).await;
        }
        sleep(RESTART).await;
        self.start_again(member).await
    }

    async fn pause(&self, member: usize) -> Result<(), String> {
        self.members[member].turn(Mood::Hangs);
        Ok(())
    }

    async fn resume(&self, member: usize) -> Result<(), String> {
        self.start_again(member).await
    }

    async fn isolate(&self, member: usize) -> Result<(), String> {
        self.members[member].turn(Mood::Refuses);
        Ok(())
    }

    async fn rejoin(&self, member: usize) -> Result<(), String> {
        self.start_again(member).await
    }

    async fn compact(&self) -> Result<(), String> {
        Ok(())
    }

    fn offers(&self, need: Need) -> bool {
        matches!(need, Need::LeaderTransfer | Need::Leaving)
    }

    async fn transfer_leader(&self, to: usize) -> Result<(), String> {
        self.elect(to, |_| true).await;
        Ok(())
    }

    async fn leave_and_return(&self, member: usize) -> Result<(), String> {
        let gone = self.members[member].endpoint.as_str();
        let granted = std::mem::take(&mut *lock(&self.granted));
        for (by, lease) in granted {
            if let Some(lease) = lease.upgrade().filter(|_| &*by == gone) {
                let _ = lease.release().await;
            }
        }
        self.restart(member).await
    }
}

/// Runs cases on a store with a fault, or without one, and judges what the suite finds.
pub(crate) async fn judge(fault: Option<Fault>, clause: Option<&'static str>, case: &str) -> Result<(), Failed> {
    let suite = Suite::new(RemoteFixture::start(fault).await?).await?;
    let case = CASES.iter().find(|one| one.name == case).ok_or("there is no such case")?;
    match (suite.run(case).await, clause) {
        (Verdict::Passed(_), None) => Ok(()),
        (Verdict::Failed(report), Some(clause)) if report.clause == clause => Ok(()),
        (verdict, clause) => Err(format!("{clause:?} should be broken, but {verdict:?}").into()),
    }
}

/// The cases that find a fault.
pub(crate) fn cases() -> BTreeSet<&'static str> {
    FAULTS.iter().map(|(_, _, case, _)| *case).collect()
}
