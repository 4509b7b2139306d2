//! Routine work of operators costs callers time, never an error: [clause S5](kv_core::contract::CLAUSES#S5).
//!
//! Every workload of `chaos` runs through each of these, together with eight busy tasks on one handle. The history is
//! judged as under any fault, and no call may fail without effect. The restarts are in `clusters`.

use crate::case::cases;
use crate::chaos::{Fault, Nemesis, weather};
use crate::context::Context;
use crate::outcome::Outcome;

cases! { "planned":
    leadership_moved ["S5", "R1", "R2", "W1", "W2", "W3", "W5", "W6", "E1", "E2", "E3", "E4", "E6", "L1", "L2", "L4", "L5", "A6"] needs [Cluster, LeaderTransfer] "All workloads go on while leadership moves from member to member, and no call fails that could be made again."
    defragmented ["S5", "R1", "R2", "W1", "W2", "W3", "W5", "W6", "E1", "E2", "E3", "E4", "E6", "L1", "L2", "L4", "L5", "A6"] needs [Cluster, Defragmentation] "All workloads go on while history is compacted and each member defragmented, and no call fails that could be made again."
    left_and_returned ["S5", "R1", "R2", "W1", "W2", "W3", "W5", "W6", "E1", "E2", "E3", "E4", "E6", "L1", "L2", "L4", "L5", "A6"] needs [Cluster, Leaving] "All workloads go on while each member leaves and returns, and no call fails that could be made again."
    upgraded ["S5", "R1", "R2", "W1", "W2", "W3", "W5", "W6", "E1", "E2", "E3", "E4", "E6", "L1", "L2", "L4", "L5", "A6"] needs [Cluster, Upgrade] "All workloads go on while each member is upgraded to each later version, and no call fails that could be made again."
}

async fn leadership_moved(cx: Context) -> Outcome {
    weather(&cx, cx.effort(), || Nemesis::new(&cx, Fault::LeadershipMoved)).await
}

async fn defragmented(cx: Context) -> Outcome {
    weather(&cx, cx.effort(), || Nemesis::new(&cx, Fault::Defragmented)).await
}

async fn left_and_returned(cx: Context) -> Outcome {
    weather(&cx, cx.effort(), || Nemesis::new(&cx, Fault::LeftAndReturned)).await
}

async fn upgraded(cx: Context) -> Outcome {
    // Once: there is no way back to the earlier versions.
    weather(&cx, 1, || Nemesis::new(&cx, Fault::Upgraded)).await
}
