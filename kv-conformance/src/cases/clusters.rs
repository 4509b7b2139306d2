//! Faults of one member while the others are a majority: the whole contract holds.
//!
//! Most cases run all workloads of `chaos` under one fault; one case runs them without a fault.

use kv_core::Error;

use crate::case::cases;
use crate::chaos::{Calm, Fault, Nemesis, weather};
use crate::context::Context;
use crate::outcome::{Outcome, refused};

cases! { "clusters":
    in_peace ["R1", "R2", "W1", "W2", "W3", "W5", "E1", "E2", "E3", "E6", "L1", "L2", "L4", "L5"] "All workloads keep the contract at the same time without any fault: registers, a bank, watches, a lock, members."
    a_member_alone_answers_nothing ["R1", "A6"] needs [Cluster] "A member isolated from its peers answers no read and no check from its own state."
    leader_killed ["R1", "R2", "W1", "W2", "W3", "W5", "W6", "E1", "E2", "E3", "E4", "E6", "L1", "L2", "L4", "L5", "A6"] needs [Cluster] "All workloads go on through the crash of the leader."
    endpoint_killed ["R1", "R2", "W1", "W2", "W3", "W5", "W6", "E1", "E2", "E3", "E4", "E6", "L1", "L2", "L4", "L5", "A6"] needs [Cluster] "All workloads go on through the crash of the member that their clients use."
    every_member_restarted ["S5", "R1", "R2", "W1", "W2", "W3", "W5", "W6", "E1", "E2", "E3", "E4", "E6", "L1", "L2", "L4", "L5", "A6"] needs [Cluster] "All workloads go on while each member is restarted in turn."
    leader_paused ["R1", "R2", "W1", "W2", "W3", "W5", "W6", "E1", "E2", "E3", "E4", "E6", "L1", "L2", "L4", "L5", "A6"] needs [Cluster] "All workloads go on while the leader is paused and after it resumes."
    leader_cut_off ["R1", "R2", "W1", "W2", "W3", "W5", "W6", "E1", "E2", "E3", "E4", "E6", "L1", "L2", "L4", "L5", "A6"] needs [Cluster] "All workloads go on while the leader is isolated from its peers but not from its clients."
    endpoint_cut_off ["R1", "R2", "W1", "W2", "W3", "W5", "W6", "E1", "E2", "E3", "E4", "E6", "L1", "L2", "L4", "L5", "A6"] needs [Cluster] "All workloads go on while the member that their clients use is isolated from its peers."
    compacted_behind_watches ["R1", "R2", "W1", "W2", "W3", "W5", "W6", "E1", "E2", "E3", "E4", "E6", "L1", "L2", "L4", "L5", "A6"] needs [Cluster, EveryChange] "A watch whose server was down while its history was compacted ends with that error, and no other watch does."
}

async fn in_peace(cx: Context) -> Outcome {
    // It runs once, whatever the effort, because it waits for leases to lapse.
    weather(&cx, 1, || async { Ok(Calm) }).await
}

async fn a_member_alone_answers_nothing(cx: Context) -> Outcome {
    let faults = cx.faults()?;
    let victim = (cx.leader().await? + 1) % faults.endpoints().len();
    let kv = faults.connect_to(&faults.endpoints()[victim..=victim]).await?.scoped(cx.directory())?;
    let index = kv.set("present", "1").await?;
    cx.hurt("cut a member off", faults.isolate(victim)).await?;
    let held = async {
        let (get, absent, all, keys, remove, check, ping) = tokio::join!(
            kv.get("present"),
            kv.get("absent"),
            kv.get_all(""),
            kv.keys(""),
            kv.remove("absent", 0),
            kv.txn().check("present", index).check("absent", 0).commit(),
            kv.ping(),
        );
        refused!("R1", get, Error::Unavailable { .. });
        refused!("R1", absent, Error::Unavailable { .. });
        refused!("R1", all, Error::Unavailable { .. });
        refused!("R1", keys, Error::Unavailable { .. });
        refused!("R1", remove, Error::Unavailable { .. } | Error::Indeterminate { .. });
        refused!("R1", check, Error::Unavailable { .. } | Error::Indeterminate { .. });
        refused!("A6", ping, Error::Unavailable { .. });
        Ok(())
    }
    .await;
    cx.hurt("let it rejoin", faults.rejoin(victim)).await?;
    held
}

async fn through(cx: Context, fault: Fault) -> Outcome {
    weather(&cx, cx.effort(), || Nemesis::new(&cx, fault)).await
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
