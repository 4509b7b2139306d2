//! Arbitrary input: addresses and JSON are accepted or refused, and nothing panics.

use kv_core::backend::Address;
use kv_core::{Environment, Error, Event, Listing, Value};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

/// The input is the same on every run, so that a failure can be repeated.
fn config() -> ProptestConfig {
    ProptestConfig { cases: 2000, failure_persistence: None, rng_seed: RngSeed::Fixed(7), ..ProptestConfig::default() }
}

fn parse(text: &str) -> kv_core::Result<Address> {
    Address::parse(text, Environment::from([]))
}

/// Reads an address, and checks what is true of every accepted address and of every refusal.
fn read_or_refused(text: &str) {
    match parse(text) {
        Ok(address) => {
            assert!(address.root.is_empty() || address.root.ends_with('/'), "{text:?}: {address:?}");
            assert!(!address.timeout.is_zero(), "{text:?}");
            for host in &address.hosts {
                assert!(!host.host.is_empty() && host.port != Some(0), "{text:?}: {address:?}");
            }
            let names: Vec<&str> = address.parameter_names().collect();
            assert!(names.iter().all(|name| address.parameter(name).is_some()), "{text:?}: {names:?}");
        }
        Err(error) => assert!(matches!(error, Error::InvalidAddress { .. }), "{text:?}: {error:?}"),
    }
}

/// A text with some of its characters replaced, left out or repeated.
fn mutated(text: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    let changes = proptest::collection::vec((any::<prop::sample::Index>(), 0..3_u8, any::<char>()), 0..4);
    (text, changes).prop_map(|(text, changes)| {
        let mut characters: Vec<char> = text.chars().collect();
        for (at, change, character) in changes {
            if characters.is_empty() {
                break;
            }
            let at = at.index(characters.len());
            match change {
                0 => characters[at] = character,
                1 => drop(characters.remove(at)),
                _ => characters.insert(at, character),
            }
        }
        characters.into_iter().collect()
    })
}

/// Text that looks like an address and often is one.
fn address() -> impl Strategy<Value = String> {
    let scheme = "(etcd|consuls|http|memory)://([a-z]{1,4}:([a-z]|%[0-9a-f]{2}){0,5}@)?";
    let host = "([a-z]{1,5}(\\.[a-z]{1,5})?|[0-9]{1,3}(\\.[0-9]{1,3}){0,3}|\\[[0-9a-f:]{0,12}\\])(:[0-9]{1,6})?";
    let rest = "(/[a-z%0-9/]{0,8})?(\\?(timeout|ca)=[0-9a-z%]{0,6}(&[a-z]{1,3}=[^&#]{0,4})?)?";
    proptest::string::string_regex(&format!("{scheme}{host}(,{host}){{0,2}}{rest}")).expect("a regular expression")
}

fn event() -> impl Strategy<Value = Event> {
    (any::<String>(), 1..=3_u8, any::<Vec<u8>>(), any::<u64>()).prop_map(|(key, event_type, data, index)| Event {
        key,
        event_type: event_type.try_into().expect("a type of event"),
        data: data.into(),
        index,
    })
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_bytes_are_an_address_or_are_refused(bytes in any::<Vec<u8>>()) {
        read_or_refused(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn any_text_is_an_address_or_is_refused(text in any::<String>(), scheme in "(etcd://|memory://)?") {
        read_or_refused(&format!("{scheme}{text}"));
    }

    #[test]
    fn text_like_an_address_is_one_or_is_refused(text in mutated(address())) {
        read_or_refused(&text);
    }

    #[test]
    fn no_refusal_quotes_a_password(before in "[^/?&=]{0,6}", after in "[^/?&=]{0,6}", rest in any::<String>()) {
        // A password with an unescaped `/`, `?` or `&` is not recognized as one, so it is left out.
        let text = format!("etcd://user:{before}hunter2Qx7Zk{after}@{rest}");
        if let Err(error) = parse(&text) {
            let told = format!("{error} {error:?}");
            prop_assert!(!told.contains("hunter2Qx7Zk"), "{told}");
        }
    }

    #[test]
    fn any_bytes_are_json_of_ours_or_are_refused(bytes in any::<Vec<u8>>()) {
        let _ = serde_json::from_slice::<Event>(&bytes);
        let _ = serde_json::from_slice::<Value>(&bytes);
        let _ = serde_json::from_slice::<Listing>(&bytes);
    }

    #[test]
    fn every_event_comes_back_from_its_json(event in event()) {
        let json = serde_json::to_string(&event).expect("JSON");
        prop_assert_eq!(&serde_json::from_str::<Event>(&json).expect("an event"), &event);
        let value = Value::new(event.data, event.index);
        let json = serde_json::to_string(&value).expect("JSON");
        prop_assert_eq!(serde_json::from_str::<Value>(&json).expect("a value"), value);
    }

    #[test]
    fn broken_json_is_refused_or_means_what_it_says(
        json in mutated(event().prop_map(|event| serde_json::to_string(&event).expect("JSON"))),
    ) {
        if let Ok(event) = serde_json::from_str::<Event>(&json) {
            let again = serde_json::to_string(&event).expect("JSON");
            prop_assert_eq!(serde_json::from_str::<Event>(&again).expect("an event"), event);
        }
    }
}

#[test]
fn json_that_is_too_deep_or_has_too_large_numbers_is_refused() {
    let deep = "[".repeat(100_000);
    for json in [
        deep.clone(),
        format!(r#"{{"key":{deep}"#),
        format!(r#"{{"key":"a","type":1,"index":1,"more":{deep}}}"#),
        r#"{"key":"a","type":1,"index":18446744073709551616}"#.to_owned(),
        r#"{"key":"a","type":1,"index":-1}"#.to_owned(),
        r#"{"key":"a","type":1,"index":1e3}"#.to_owned(),
        r#"{"key":"a","type":0,"index":1}"#.to_owned(),
        r#"{"key":"a","type":257,"index":1}"#.to_owned(),
        r#"{"key":"\ud800","type":1,"index":1}"#.to_owned(),
        r#"{"key":"a","type":1,"data":"=","index":1}"#.to_owned(),
        r#"{"key":"a","key":"b","type":1,"index":1}"#.to_owned(),
    ] {
        let shown = &json[..json.len().min(80)];
        assert!(serde_json::from_str::<Event>(&json).is_err(), "{shown}");
    }
}
