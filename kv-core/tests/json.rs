//! The JSON of values and events, that of the Go package `kv`, and their binary forms.

use kv_core::{Event, EventType, Listing, Value};

fn event(event_type: EventType, data: &str) -> Event {
    Event { key: "a/b".into(), event_type, data: data.to_owned().into(), index: 7 }
}

#[test]
fn events_are_written_as_the_go_package_writes_them() {
    for (event, json) in [
        (event(EventType::Create, "hello"), r#"{"key":"a/b","type":1,"data":"aGVsbG8=","index":7}"#),
        (event(EventType::Delete, ""), r#"{"key":"a/b","type":2,"data":"","index":7}"#),
        (event(EventType::Update, "\u{ff}"), r#"{"key":"a/b","type":3,"data":"w78=","index":7}"#),
    ] {
        assert_eq!(serde_json::to_string(&event).expect("JSON"), json);
        assert_eq!(serde_json::from_str::<Event>(json).expect("an event"), event);
    }
}

#[test]
fn fields_that_go_leaves_out_are_read() {
    let event = |json| serde_json::from_str::<Event>(json).expect("an event");
    assert_eq!(event(r#"{"key":"a","type":2,"data":null,"index":7}"#).data, "");
    assert_eq!(event(r#"{"index":7,"type":2,"key":"a"}"#).data, "");
    assert_eq!(serde_json::from_str::<Value>(r#"{"data":null,"index":0}"#).expect("a value"), Value::new("", 0));
}

#[test]
fn json_that_is_no_event_is_refused() {
    for (json, part) in [
        (r#"{"key":"a","type":0,"data":"","index":7}"#, "0 is not an event type"),
        (r#"{"key":"a","type":4,"data":"","index":7}"#, "4 is not an event type"),
        (r#"{"key":"a","type":1,"data":"%%","index":7}"#, "ymbol"),
        (r#"{"key":"a","type":1,"data":"","index":-7}"#, "-7"),
        (r#"{"type":1,"data":"","index":7}"#, "key"),
    ] {
        let error = serde_json::from_str::<Event>(json).expect_err(json).to_string();
        assert!(error.contains(part), "{json}: {error}");
    }
}

#[test]
fn event_types_have_the_names_and_numbers_of_the_go_package() {
    let all = [(EventType::Create, 1, "Create"), (EventType::Delete, 2, "Delete"), (EventType::Update, 3, "Update")];
    for (event_type, number, name) in all {
        assert_eq!((u8::from(event_type), event_type.to_string().as_str()), (number, name));
        assert_eq!(EventType::try_from(number), Ok(event_type));
    }
    assert_eq!(format!("[{:>8}]", EventType::Create), "[  Create]");
    assert!(EventType::try_from(0).is_err());
}

#[test]
fn values_and_events_survive_binary_formats_that_are_not_self_describing() {
    for data in ["", "hello", "\u{ff}"] {
        let value = Value::new(data, 7);
        let bytes = postcard::to_allocvec(&value).expect("bytes");
        assert_eq!(bytes.len(), data.len() + 2, "no base64: a length, the data, an index");
        assert_eq!(postcard::from_bytes::<Value>(&bytes).expect("a value"), value);
        for event_type in [EventType::Create, EventType::Delete, EventType::Update] {
            let event = event(event_type, data);
            let bytes = postcard::to_allocvec(&event).expect("bytes");
            assert_eq!(postcard::from_bytes::<Event>(&bytes).expect("an event"), event);
        }
    }
    let listing = Listing { values: [("a".to_owned(), Value::new("1", 2))].into(), index: 3 };
    let bytes = postcard::to_allocvec(&listing).expect("bytes");
    assert_eq!(postcard::from_bytes::<Listing>(&bytes).expect("a listing"), listing);
}

#[test]
fn listings_survive_json() {
    let listing = Listing { values: [("a".to_owned(), Value::new("1", 2))].into(), index: 3 };
    let json = serde_json::to_string(&listing).expect("JSON");
    assert_eq!(json, r#"{"values":{"a":{"data":"MQ==","index":2}},"index":3}"#);
    assert_eq!(serde_json::from_str::<Listing>(&json).expect("a listing"), listing);
}
