//! Faults of a cluster of three or more members, one member at a time.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use super::progress::Progress;
use super::storm::{Role, Storm};
use crate::context::Context;
use crate::outcome::Outcome;

/// How long a leader is paused: longer than a connection's keepalive timeout.
const PAUSE: Duration = Duration::from_secs(10);

/// The fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    LeaderKilled,
    EndpointKilled,
    EveryMemberRestarted,
    LeaderPaused,
    LeaderCutOff,
    EndpointCutOff,
    CompactedBehindWatches,
    LeadershipMoved,
    Defragmented,
    LeftAndReturned,
    Upgraded,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LeaderKilled => "the leader was killed, and started again",
            Self::EndpointKilled => "a member that clients use was killed, and started again",
            Self::EveryMemberRestarted => "every member was restarted, one after the other",
            Self::LeaderPaused => "the leader was paused for ten seconds",
            Self::LeaderCutOff => "the leader was isolated from its peers",
            Self::EndpointCutOff => "a member that clients use was isolated from its peers",
            Self::CompactedBehindWatches => "the member that all observers use was killed, history compacted meanwhile",
            Self::LeadershipMoved => "leadership was moved from member to member",
            Self::Defragmented => "history was compacted and every member defragmented",
            Self::LeftAndReturned => "every member left and returned, one after the other",
            Self::Upgraded => "every member was upgraded, one after the other, to each later version",
        })
    }
}

/// A fault in progress, with its victim.
pub(crate) struct Nemesis {
    fault: Fault,
    victim: usize,
    endpoints: Vec<String>,
}

impl Nemesis {
    /// Chooses the victim: the leader or a follower.
    pub(crate) async fn new(cx: &Context, fault: Fault) -> Outcome<Self> {
        let endpoints = cx.faults()?.endpoints();
        let leader = cx.leader().await?;
        let victim = match fault {
            Fault::LeaderKilled
            | Fault::LeaderPaused
            | Fault::LeaderCutOff
            | Fault::EveryMemberRestarted
            | Fault::LeadershipMoved
            | Fault::Defragmented
            | Fault::LeftAndReturned
            | Fault::Upgraded => leader,
            Fault::EndpointKilled | Fault::EndpointCutOff | Fault::CompactedBehindWatches => {
                (leader + 1) % endpoints.len()
            }
        };
        Ok(Self { fault, victim, endpoints })
    }

    /// All endpoints, starting with this member's.
    fn beginning_with(&self, member: usize) -> Vec<String> {
        let mut endpoints = self.endpoints.clone();
        endpoints.rotate_left(member % self.endpoints.len());
        endpoints
    }

    /// Applies the planned operation to every member in turn, and waits after each until every client is served.
    async fn maintain(&self, cx: &Context, progress: &Progress<'_>) -> Outcome {
        let faults = cx.faults()?;
        let rounds = if self.fault == Fault::Upgraded { faults.upgrades() } else { 1 };
        for member in (0..rounds).flat_map(|_| 0..self.endpoints.len()) {
            match self.fault {
                Fault::LeadershipMoved => {
                    let to = (cx.leader().await? + 1) % self.endpoints.len();
                    cx.hurt(&format!("move leadership to member {to}"), faults.transfer_leader(to)).await?;
                }
                Fault::Defragmented => {
                    cx.hurt("compact the history", faults.compact()).await?;
                    cx.hurt(&format!("defragment member {member}"), faults.defragment(member)).await?;
                }
                Fault::LeftAndReturned => {
                    let left = faults.leave_and_return(member);
                    cx.hurt(&format!("have member {member} leave and return"), left).await?;
                }
                _ => cx.hurt(&format!("upgrade member {member}"), faults.upgrade(member)).await?,
            }
            progress.everyone("after planned work on a member").await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Storm for Nemesis {
    fn about(&self) -> String {
        format!("of {} members, {}", self.endpoints.len(), self.fault)
    }

    fn endpoints(&self, role: Role, number: usize) -> Option<Vec<String>> {
        Some(match (self.fault, role) {
            (Fault::EndpointKilled | Fault::EndpointCutOff, _) => self.beginning_with(self.victim),
            (Fault::CompactedBehindWatches, Role::Observer) => vec![self.endpoints[self.victim].clone()],
            (Fault::CompactedBehindWatches, Role::Client) => self.beginning_with(self.victim + 1 + number % 2),
            _ => self.beginning_with(number),
        })
    }

    async fn strike(&self, cx: &Context, progress: &Progress<'_>) -> Outcome {
        let (faults, victim) = (cx.faults()?, self.victim);
        match self.fault {
            Fault::LeaderKilled | Fault::EndpointKilled => {
                cx.hurt("kill a member", faults.kill(victim)).await?;
                progress.everyone("while a member is down").await?;
                cx.hurt("start it again", faults.start_again(victim)).await
            }
            Fault::EveryMemberRestarted => {
                for member in 0..self.endpoints.len() {
                    cx.hurt(&format!("restart member {member}"), faults.restart(member)).await?;
                    progress.everyone("after a member was restarted").await?;
                }
                Ok(())
            }
            Fault::LeaderPaused => {
                cx.hurt("pause a member", faults.pause(victim)).await?;
                let (served, ()) = tokio::join!(
                    progress.everyone("while a member is paused"),
                    // The length of the pause is what is tested.
                    tokio::time::sleep(PAUSE)
                );
                served?;
                cx.hurt("resume it", faults.resume(victim)).await
            }
            Fault::LeaderCutOff | Fault::EndpointCutOff => {
                cx.hurt("isolate a member", faults.isolate(victim)).await?;
                progress.everyone("while a member is isolated").await?;
                cx.hurt("let it rejoin", faults.rejoin(victim)).await
            }
            Fault::CompactedBehindWatches => {
                cx.hurt("kill a member", faults.kill(victim)).await?;
                progress.of("while a member is down", |tally| tally.workload != "observers").await?;
                cx.hurt("compact the history", faults.compact()).await?;
                cx.hurt("start it again", faults.start_again(victim)).await
            }
            Fault::LeadershipMoved | Fault::Defragmented | Fault::LeftAndReturned | Fault::Upgraded => {
                self.maintain(cx, progress).await
            }
        }
    }

    /// Clients may not notice a graceful restart: the member hands over its work first. Clients with other endpoints
    /// need not notice planned work, or the loss of one endpoint: they begin with a random one.
    fn must_bite(&self) -> bool {
        !self.is_planned() && !matches!(self.fault, Fault::EndpointKilled | Fault::EndpointCutOff)
    }

    fn is_planned(&self) -> bool {
        matches!(
            self.fault,
            Fault::EveryMemberRestarted
                | Fault::LeadershipMoved
                | Fault::Defragmented
                | Fault::LeftAndReturned
                | Fault::Upgraded
        )
    }

    fn has_members_leave(&self) -> bool {
        self.fault == Fault::LeftAndReturned
    }

    async fn mend(&self, cx: &Context) {
        let Ok(faults) = cx.faults() else { return };
        // An error only means that the member did not need this.
        for member in 0..self.endpoints.len() {
            let _ = faults.resume(member).await;
            let _ = faults.rejoin(member).await;
            let _ = faults.start_again(member).await;
        }
    }
}
