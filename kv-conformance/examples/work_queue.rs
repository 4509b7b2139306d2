//! A queue of jobs that workers claim by compare-and-swap: each job is done by exactly one of them.
//!
//! ```text
//! cargo run --example work_queue [ADDRESS]
//! ```
//!
//! A job is a key below `jobs/`. A worker claims it by an update at the index that it has read. Of several workers, one
//! wins, and the others look for another job. Finishing it deletes the job and writes its result in one transaction.

use std::time::Duration;

use kv_core::{Kv, Result, Value};
use tokio::task::JoinSet;

use kv_consul as _;
use kv_etcd as _;
use kv_memory as _;

const JOBS: usize = 24;

#[tokio::main]
async fn main() -> Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "memory://".to_owned());
    let kv = kv_core::connect(&address).await?.scoped(&format!("work-queue-{}", std::process::id()))?;
    for job in 0..JOBS {
        kv.set(&format!("jobs/{job:03}"), "").await?;
    }

    let mut workers = JoinSet::new();
    for name in ["anna", "berta", "clara", "dora"] {
        workers.spawn(work(kv.clone(), name));
    }
    let mut done = 0;
    while let Some(worker) = workers.join_next().await {
        let (name, jobs, collisions) = worker.expect("a worker does not panic")?;
        println!("{name} did {jobs} jobs, and was too late for {collisions}");
        done += jobs;
    }
    let results = kv.get_all("results/").await?.values.len();
    println!("{done} of {JOBS} jobs done, {results} results, {} jobs left", kv.keys("jobs").await?.len());
    kv.delete_tree("").await
}

async fn work(kv: Kv, name: &'static str) -> Result<(&'static str, usize, usize)> {
    let (mut done, mut collisions) = (0, 0);
    loop {
        // A claimed job holds the name of its worker.
        let jobs = kv.get_all("jobs/").await?.values;
        let Some((job, seen)) = jobs.into_iter().find(|(_, job)| job.data.is_empty()) else {
            return Ok((name, done, collisions));
        };
        match kv.update(&job, Value::new(name, seen.index)).await {
            Ok(claimed) => {
                // The work itself. No other worker does it, because no other worker can claim it.
                tokio::time::sleep(Duration::from_millis(5)).await;
                let result = job.replacen("jobs/", "results/", 1);
                kv.txn().check(&job, claimed).delete(&job).set(&result, name).commit().await?;
                done += 1;
            }
            Err(error) if error.is_conflict() => collisions += 1,
            Err(error) => return Err(error),
        }
    }
}
