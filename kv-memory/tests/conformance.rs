//! The memory store keeps the contract.

use kv_conformance::AddressFixture;

fn main() -> std::process::ExitCode {
    let registry = kv_core::Registry::new().with(kv_memory::REGISTRATION);
    // The store answers at once, so random cases can run far more often than on a server.
    kv_conformance::run(async {
        Ok::<_, String>(AddressFixture::new(registry, "memory://suite").await?.with_effort(25))
    })
}
