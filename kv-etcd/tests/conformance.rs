//! The whole suite on a real etcd.

use kv_conformance::servers::{Kind, ServerFixture};

fn main() -> std::process::ExitCode {
    kv_conformance::run(ServerFixture::start(Kind::Etcd, 1, kv_etcd::REGISTRATION))
}
