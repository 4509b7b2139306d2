//! The memory store keeps the contract.

fn main() -> std::process::ExitCode {
    let registry = kv_core::Registry::new().with(kv_memory::REGISTRATION);
    kv_conformance::run(kv_conformance::AddressFixture::new(registry, "memory://suite"))
}
