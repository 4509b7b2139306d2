//! The whole suite on a real Consul.

use kv_conformance_servers::{Kind, Options, ServerFixture};

fn main() -> std::process::ExitCode {
    kv_conformance::run(ServerFixture::start(Kind::Consul, 1, Options::default(), kv_consul::REGISTRATION))
}
