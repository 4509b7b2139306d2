//! The file keeps the contract.

fn main() -> std::process::ExitCode {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let registry = kv_core::Registry::new().with(kv_file::REGISTRATION);
    let address = format!("file:///?path={}", directory.path().join("store.json").display());
    kv_conformance::run(kv_conformance::AddressFixture::new(registry, &address))
}
