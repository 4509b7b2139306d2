//! The rolling upgrade of three members of etcd, from one minor version to the next and the one after. Needs Docker.

use std::process::ExitCode;
use std::sync::Arc;

use kv_conformance::{CASES, Need, Suite, Verdict};
use kv_conformance_servers::{Kind, Options, ServerFixture};

const FROM: &str = "kv-etcd:3.5.30";
const TO: [&str; 2] = ["kv-etcd:3.6.16", "kv-etcd:3.7.3"];

fn main() -> ExitCode {
    let arguments = libtest_mimic::Arguments::from_args();
    let runtime = Arc::new(tokio::runtime::Runtime::new().expect("a runtime"));
    let cases = CASES.iter().filter(|case| case.needs.contains(&Need::Upgrade));
    let with = runtime.clone();
    let trials = cases.map(|case| {
        let runtime = with.clone();
        libtest_mimic::Trial::test(format!("etcd::{}", case.name), move || {
            runtime.block_on(async {
                let options = Options::default().image(FROM);
                let fixture = ServerFixture::start(Kind::Etcd, 3, options, kv_etcd::REGISTRATION).await?;
                let suite = Suite::new(fixture.with_upgrades(TO)).await?;
                match suite.run(case).await {
                    Verdict::Passed(summary) => eprintln!("{}: {}", case.name, summary.unwrap_or_default()),
                    Verdict::NotRun(need) => return Err(need.to_string().into()),
                    Verdict::Failed(report) => return Err(report.into()),
                }
                Ok(())
            })
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}
