//! The whole suite on the memory store, which is fast enough for its random cases to try harder.

use std::process::ExitCode;

use kv_conformance::AddressFixture;
use kv_core::Registry;

fn main() -> ExitCode {
    let registry = Registry::new().with(kv_memory::REGISTRATION);
    kv_conformance::run(async {
        Ok::<_, String>(AddressFixture::new(registry, "memory://suite").await?.with_effort(25))
    })
}
