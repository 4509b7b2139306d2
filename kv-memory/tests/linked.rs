//! A backend that a program names only in `use kv_memory as _;` is found, whatever the optimiser makes of that line.

use std::process::Command;

fn run(profile: &[&str]) {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["run", "--quiet", "--package", "kv-memory", "--example", "linked"]).args(profile);
    let output = command.output().expect("cargo runs");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    assert_eq!(out.trim(), r#"memory says b"hello""#);
}

#[test]
fn in_debug() {
    run(&[]);
}

#[test]
fn in_release() {
    run(&["--release"]);
}
