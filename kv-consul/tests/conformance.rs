//! The whole suite on a real Consul.

use kv_conformance::servers::{Kind, ServerFixture};

fn main() -> std::process::ExitCode {
    kv_conformance::run(ServerFixture::start(Kind::Consul, 1, kv_consul::REGISTRATION))
}
