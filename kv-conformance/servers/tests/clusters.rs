//! The cases with faults in a cluster, on three members of each store, both stores at the same time. Needs Docker.

use std::process::ExitCode;
use std::sync::Arc;

use kv_conformance::{CASES, Need, Suite, Verdict};
use kv_conformance_servers::{Kind, Options, ServerFixture};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use tokio::runtime::Runtime;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // A case with faults has a store to itself. Two at a time give each store one.
    arguments.test_threads.get_or_insert(4);
    let runtime = Arc::new(Runtime::new().expect("a runtime"));
    let starting = async {
        if arguments.list {
            return (None, None);
        }
        let etcd = start(Kind::Etcd, kv_etcd::REGISTRATION);
        let consul = start(Kind::Consul, kv_consul::REGISTRATION);
        let (etcd, consul) = tokio::join!(etcd, consul);
        (Some(etcd), Some(consul))
    };
    let (etcd, consul) = runtime.block_on(starting);
    let mut trials = Vec::new();
    for case in CASES.iter().filter(|case| case.needs.contains(&Need::Cluster)) {
        for (store, suite) in [("etcd", &etcd), ("consul", &consul)] {
            let (runtime, suite) = (runtime.clone(), suite.clone());
            trials.push(Trial::ignorable_test(format!("{store}::{}", case.name), move || {
                let Some(suite) = suite else { return Ok(Completion::Completed) };
                match runtime.block_on(suite.run(case)) {
                    Verdict::Passed(summary) => {
                        eprintln!("{}: {}", case.name, summary.unwrap_or_default());
                        Ok(Completion::Completed)
                    }
                    Verdict::NotRun(need) => Ok(Completion::ignored_with(need)),
                    Verdict::Failed(report) => Err(Failed::from(report)),
                }
            }));
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    // Within the runtime, which the servers need to be stopped.
    runtime.block_on(async move { drop((etcd, consul)) });
    conclusion.exit_code()
}

async fn start(kind: Kind, backend: kv_core::Registration) -> Arc<Suite> {
    let fixture = ServerFixture::start(kind, 3, Options::default(), backend).await;
    let fixture = fixture.unwrap_or_else(|error| panic!("{kind}: {error}"));
    Arc::new(Suite::new(fixture).await.unwrap_or_else(|error| panic!("{kind}: {error}")))
}
