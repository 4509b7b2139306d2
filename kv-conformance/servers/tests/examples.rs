//! The examples on every store: each runs to its end and prints the expected last line.

use std::path::PathBuf;
use std::process::Command;

use kv_conformance_servers::{Cluster, Kind, Options, address_from_environment};

/// The last line that each example prints.
const EXAMPLES: [(&str, &str); 7] = [
    ("tour", "Is the line that links its crate missing, such as `use kv_etcd as _;`?"),
    ("live_configuration", "stopped by configuration"),
    ("service_registry", "everybody left"),
    ("leader_election", r#"unguarded: the leader is b"the old one, unguarded", which is wrong"#),
    ("work_queue", "24 of 24 jobs done, 24 results, 0 jobs left"),
    ("observability", "warnings: 1"),
    ("copy_tree", "verified: 0 of 1000 keys differ"),
];

/// The directory where cargo puts examples, beside that of the tests. They belong to another package, so cargo builds
/// them before this test only when it tests the whole workspace.
fn program(example: &str) -> PathBuf {
    let tests = std::env::current_exe().expect("this test has a path");
    let profile = tests.parent().and_then(|deps| deps.parent()).expect("cargo's directories");
    profile.join("examples").join(format!("{example}{}", std::env::consts::EXE_SUFFIX))
}

fn run_all(address: &str) {
    for (example, last_line) in EXAMPLES {
        let program = program(example);
        assert!(program.exists(), "run `cargo build --package kv-examples --examples` first");
        let output = Command::new(program).arg(address).output().expect("the example starts");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{example} {address} failed:\n{out}{err}");
        assert!(out.trim_end().ends_with(last_line), "{example} {address} ended with another line:\n{out}{err}");
    }
}

async fn run_all_on(kind: Kind) {
    if let Some(address) = address_from_environment(kind) {
        return run_all(&address);
    }
    let cluster = Cluster::start(kind, 1, Options::default()).await.expect("a server");
    let address = format!("{}/examples", cluster.address());
    tokio::task::spawn_blocking(move || run_all(&address)).await.expect("the examples run");
    cluster.stop().await;
}

#[test]
fn on_memory() {
    run_all("memory://");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_etcd() {
    run_all_on(Kind::Etcd).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_consul() {
    run_all_on(Kind::Consul).await;
}
