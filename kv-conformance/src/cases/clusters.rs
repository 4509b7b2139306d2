//! What holds while one member of a cluster is being hurt, and the others are a majority: everything.
//!
//! Each case runs every workload of `chaos` through one fault; the first one runs them without any.

use crate::case::{Outcome, cases};
use crate::chaos::{Calm, Fault, Nemesis, weather};
use crate::context::Context;

cases! { "clusters":
    in_peace ["R1", "R2", "W1", "W2", "W3", "W5", "E1", "E2", "E3", "E6", "L1", "L2", "L4", "L5"] "All workloads at the same time, without any fault: registers, a bank, watches, a lock, members."
    leader_killed ["R1", "R2", "W1", "W2", "W3", "W5", "W6", "E1", "E2", "E3", "E4", "E6", "L1", "L2", "L4", "L5", "A6"] needs [Cluster] "All workloads go on through the crash of the leader."
    endpoint_killed ["R1", "R2", "W1", "W2", "W3", "W5", "W6", "E1", "E2", "E3", "E4", "E6", "L1", "L2", "L4", "L5", "A6"] needs [Cluster] "All workloads go on through the crash of the member that their clients use."
    every_member_restarted ["R1", "R2", "W1", "W2", "W3", "W5", "W6", "E1", "E2", "E3", "E4", "E6", "L1", "L2", "L4", "L5", "A6"] needs [Cluster] "All workloads go on while each member is restarted in turn."
    leader_paused ["R1", "R2", "W1", "W2", "W3", "W5", "W6", "E1", "E2", "E3", "E4", "E6", "L1", "L2", "L4", "L5", "A6"] needs [Cluster] "All workloads go on while the leader stands still, and when it goes on as if nothing had happened."
    leader_cut_off ["R1", "R2", "W1", "W2", "W3", "W5", "W6", "E1", "E2", "E3", "E4", "E6", "L1", "L2", "L4", "L5", "A6"] needs [Cluster] "All workloads go on while the leader has lost its peers, but not its clients."
    endpoint_cut_off ["R1", "R2", "W1", "W2", "W3", "W5", "W6", "E1", "E2", "E3", "E4", "E6", "L1", "L2", "L4", "L5", "A6"] needs [Cluster] "All workloads go on while the member that their clients use has lost its peers."
    compacted_behind_watches ["R1", "R2", "W1", "W2", "W3", "W5", "W6", "E1", "E2", "E3", "E4", "E6", "L1", "L2", "L4", "L5", "A6"] needs [Cluster, EveryChange] "A watch whose server was away while its history was compacted says so, and nothing else does."
}

async fn in_peace(cx: Context) -> Outcome {
    weather(&cx, || async { Ok(Calm) }).await
}

async fn through(cx: Context, fault: Fault) -> Outcome {
    weather(&cx, || Nemesis::new(&cx, fault)).await
}

async fn leader_killed(cx: Context) -> Outcome {
    through(cx, Fault::LeaderKilled).await
}

async fn endpoint_killed(cx: Context) -> Outcome {
    through(cx, Fault::EndpointKilled).await
}

async fn every_member_restarted(cx: Context) -> Outcome {
    through(cx, Fault::EveryMemberRestarted).await
}

async fn leader_paused(cx: Context) -> Outcome {
    through(cx, Fault::LeaderPaused).await
}

async fn leader_cut_off(cx: Context) -> Outcome {
    through(cx, Fault::LeaderCutOff).await
}

async fn endpoint_cut_off(cx: Context) -> Outcome {
    through(cx, Fault::EndpointCutOff).await
}

async fn compacted_behind_watches(cx: Context) -> Outcome {
    through(cx, Fault::CompactedBehindWatches).await
}
