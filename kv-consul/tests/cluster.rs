//! The conformance suite on three members, which it hurts one after the other.

use kv_conformance::servers::{Kind, Options, ServerFixture};

fn main() -> std::process::ExitCode {
    kv_conformance::run(ServerFixture::start(Kind::Consul, 3, Options::default(), kv_consul::REGISTRATION))
}
