//! The whole suite on the memory store.

use std::process::ExitCode;

use kv_conformance::AddressFixture;
use kv_core::Registry;

fn main() -> ExitCode {
    let registry = Registry::new().with(kv_memory::REGISTRATION);
    kv_conformance::run(AddressFixture::new(registry, "memory://suite"))
}
