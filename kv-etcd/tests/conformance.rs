//! The whole suite on a real etcd: one server, with every fault that one can have.

use std::process::ExitCode;

use kv_conformance::servers::{Kind, ServerFixture};

fn main() -> ExitCode {
    kv_conformance::run(ServerFixture::start(Kind::Etcd, 1, kv_etcd::REGISTRATION))
}
