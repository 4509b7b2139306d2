//! The command as its users run it. Servers are needed for none of this.

use std::process::{Command, Output};

fn kv_conformance(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kv-conformance"));
    command.args(arguments).output().expect("the command runs")
}

#[test]
fn it_proves_clauses_on_a_store_and_prints_the_table() {
    let output = kv_conformance(&["memory://program", "--filter", "keys::"]);
    let (table, report) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{table}{report}");
    assert!(table.contains("K1") && table.contains("memory"), "{table}");
    assert!(report.contains(" passed, 0 failed"), "{report}");
}

#[test]
fn a_store_that_is_not_there_fails_without_showing_the_password() {
    let output = kv_conformance(&["etcd://me:hidden@127.0.0.1:1/?timeout=100ms", "--filter", "keys::"]);
    let report = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{report}");
    assert!(report.contains("127.0.0.1:1") && !report.contains("hidden"), "{report}");
}

#[test]
fn a_filter_that_selects_nothing_fails() {
    let output = kv_conformance(&["memory://", "--filter", "no such case"]);
    let report = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && report.contains("no case"), "{report}");
}
