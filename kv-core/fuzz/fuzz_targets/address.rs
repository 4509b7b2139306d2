//! Any text is accepted as an address or refused: `cargo +nightly fuzz run address`, in `kv-core`.

#![no_main]

use kv_core::Environment;
use kv_core::backend::Address;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let Ok(address) = Address::parse(text, Environment::from([])) else { return };
    assert!(address.root.is_empty() || address.root.ends_with('/'));
    assert!(!address.timeout.is_zero());
    assert!(address.hosts.iter().all(|host| !host.host.is_empty() && host.port != Some(0)));
    let _ = format!("{address:?}");
    for name in address.parameter_names() {
        let _ = (address.duration(name), address.number(name));
    }
});
