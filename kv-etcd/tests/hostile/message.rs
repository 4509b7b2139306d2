//! Messages of etcd's API, encoded without the crate under test.
#![allow(dead_code, reason = "each test program uses its own part of this")]

/// A message in gRPC's frame: not compressed, with its length before it.
pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("a length");
    [&[0], &length.to_be_bytes()[..], message].concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(u8::try_from(value & 0x7f).expect("seven bits") | 0x80);
        value >>= 7;
    }
    bytes.push(u8::try_from(value).expect("seven bits"));
    bytes
}

/// A field that is a number.
pub(crate) fn number(field: u64, value: i64) -> Vec<u8> {
    [varint(field << 3), varint(value.cast_unsigned())].concat()
}

/// A field that is a string, bytes, or a message.
pub(crate) fn text(field: u64, value: &[u8]) -> Vec<u8> {
    [varint(field << 3 | 2), varint(value.len() as u64), value.to_vec()].concat()
}

pub(crate) fn header(revision: i64) -> Vec<u8> {
    text(1, &number(3, revision))
}

pub(crate) fn key_value(key: &[u8], create: i64, modify: i64, value: &[u8]) -> Vec<u8> {
    [text(1, key), number(2, create), number(3, modify), text(5, value)].concat()
}

/// A page of a listing.
pub(crate) fn page(keys: &[&str], value: &[u8], more: bool) -> Vec<u8> {
    let entries = keys.iter().flat_map(|key| text(2, &key_value(key.as_bytes(), 1, 1, value)));
    [header(1), entries.collect(), number(3, more.into())].concat()
}

/// The confirmation of a watch by a server at this revision.
pub(crate) fn watch_created(watch: i64, revision: i64) -> Vec<u8> {
    [header(revision), number(2, watch), number(3, 1)].concat()
}

pub(crate) fn watch_canceled(watch: i64, reason: &[u8]) -> Vec<u8> {
    [header(1), number(2, watch), number(4, 1), text(6, reason)].concat()
}

/// Events of puts at these revisions, from a server at a later revision. `fragment`: more of the last one follows.
pub(crate) fn watch_events(watch: i64, revisions: &[i64], value: &[u8], fragment: bool) -> Vec<u8> {
    let put = |revision: &i64| text(11, &text(2, &key_value(b"key", *revision, *revision, value)));
    [header(i64::MAX), number(2, watch), number(7, fragment.into()), revisions.iter().flat_map(put).collect()].concat()
}

pub(crate) fn of_an_empty_store(method: &str) -> Vec<u8> {
    match method {
        "Status" => [header(1), number(4, 1)].concat(),
        "Txn" => [header(3), number(2, 1)].concat(),
        "LeaseGrant" => [header(1), number(3, 10)].concat(),
        "Authenticate" => [header(1), text(2, b"token.1")].concat(),
        _ => header(2),
    }
}
