//! Any bytes are JSON of ours or are refused, and what is read comes back the same: `cargo +nightly fuzz run json`, in
//! `kv-core`.

#![no_main]

use kv_core::{Event, Listing, Value};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(event) = serde_json::from_slice::<Event>(bytes) {
        let again = serde_json::to_vec(&event).expect("JSON");
        assert_eq!(serde_json::from_slice::<Event>(&again).expect("an event"), event);
    }
    if let Ok(value) = serde_json::from_slice::<Value>(bytes) {
        let again = serde_json::to_vec(&value).expect("JSON");
        assert_eq!(serde_json::from_slice::<Value>(&again).expect("a value"), value);
    }
    if let Ok(listing) = serde_json::from_slice::<Listing>(bytes) {
        let again = serde_json::to_vec(&listing).expect("JSON");
        assert_eq!(serde_json::from_slice::<Listing>(&again).expect("a listing"), listing);
    }
});
