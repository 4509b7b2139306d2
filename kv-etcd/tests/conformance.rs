//! The whole conformance suite on a real etcd: one server, with every fault that a single server can have.

use std::process::ExitCode;

use kv_conformance_servers::{Kind, Options, ServerFixture};

fn main() -> ExitCode {
    kv_conformance::run(ServerFixture::start(Kind::Etcd, 1, Options::default(), kv_etcd::REGISTRATION))
}
