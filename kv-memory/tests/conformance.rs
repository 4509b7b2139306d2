//! The memory store keeps the contract.

use kv_conformance::AddressFixture;

fn main() -> std::process::ExitCode {
    let registry = kv_core::Registry::new().with(kv_memory::REGISTRATION);
    // It answers at once, so that what is random can be tried far more often than on a server.
    kv_conformance::run(async {
        Ok::<_, String>(AddressFixture::new(registry, "memory://suite").await?.with_effort(25))
    })
}
