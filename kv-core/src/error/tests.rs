//! The texts of errors.

use super::*;

#[test]
fn debug_says_what_display_says() {
    let error = Error::unavailable("no answer").with_source(std::io::Error::other("reset by peer"));
    assert_eq!(format!("{error:?}"), error.to_string());
    assert_eq!(format!("{error:#?}"), format!("{error}\ncaused by: reset by peer"));
    let unknown = Error::UnknownScheme { scheme: "etcd".to_owned(), known: vec!["memory".to_owned()] };
    assert!(format!("{unknown:?}").contains("`use kv_etcd as _;`"));
}

#[test]
fn a_conflict_says_what_it_met_and_what_to_do() {
    let occupied = ConflictKind::Occupied { entry: "app/job/.lock".to_owned() };
    for (error, said) in [
        (Error::conflict("app/job", 0), "\"app/job\" exists already; nothing was changed: read it"),
        (Error::conflict("app/job", 7), "\"app/job\" has changed since it was read, or does not exist; nothing"),
        (Error::Conflict { key: "app/job".to_owned(), kind: occupied }, "lock on \"app/job\" was not taken"),
    ] {
        assert!(error.to_string().contains(said), "{error}");
        let located = error.located("memory", "lock", "job", "app/").to_string();
        assert!(located.contains("\"job\""), "{located}");
        assert_eq!(located.contains("app/job"), located.contains("\"app/job/.lock\""), "{located}");
    }
}

#[test]
fn every_error_says_what_happened_where_and_what_to_do() {
    let (key, reason) = (|| "app/k".to_owned(), || "because".to_owned());
    let second = Duration::from_secs(1);
    let invalid_key = Error::InvalidKey { key: "k//".to_owned(), reason: reason() };
    let too_large = Error::TxnTooLarge { operations: 3, bytes: 5, max_operations: 2, max_bytes: 4 };
    let table: [(Error, &[&str]); 20] = [
        (Error::NotFound { key: key() }, &["\"k\"", "does not exist"]),
        (Error::conflict(key(), 0), &["\"k\"", "exists already", "read it, then decide"]),
        (Error::conflict(key(), 1), &["\"k\"", "has changed", "read it again"]),
        (Error::Lost { key: key() }, &["\"k\"", "lost", "stop what it protects"]),
        (Error::Closed { key: key() }, &["\"k\"", "closed", "connect again"]),
        (
            Error::LeftToLapse { keys: vec![key()], within: second, reason: reason() },
            &["because", "in 1s at the latest: k"],
        ),
        (invalid_key, &["\"k//\"", "because"]),
        (Error::ValueTooLarge { key: "k".to_owned(), bytes: 5, max: 4 }, &["\"k\"", "5 bytes", "limit of 4"]),
        (too_large, &["3 checks and operations", "5 bytes", "limit of 2 and 4 bytes", "split it"]),
        (Error::OverlappingWrites { key: "k".to_owned() }, &["\"k\"", "leave one of them"]),
        (
            Error::ForeignLock { key: "k".to_owned(), held: "etcd", backend: "consul" },
            &["\"k\"", "etcd", "consul", "guard it with a lock of the store"],
        ),
        (Error::InvalidTtl { ttl: second, min: second * 2, max: second * 3 }, &["1s", "2s to 3s"]),
        (Error::Compacted { after: 7, oldest: Some(9) }, &["after index 7", "begins after 9", "use observe"]),
        (Error::unavailable("because"), &["memory set \"k\": because", "nothing was applied: try again"]),
        (Error::indeterminate("because"), &["memory set \"k\": because", "read before writing again"]),
        (Error::permission_denied("because"), &["memory set \"k\": because", "check the credentials"]),
        (Error::storage_full("because"), &["memory set \"k\": because", "until the store has room"]),
        (Error::unexpected_answer("because"), &["memory set \"k\": because", "right kind of server"]),
        (Error::invalid_address("because"), &["invalid address: because"]),
        (
            Error::NoneAnswered { attempts: vec![("etcd".to_owned(), Error::unavailable("refused"))] },
            &["etcd said: refused", "try again"],
        ),
    ];
    for (error, parts) in table {
        let said = error.located("memory", "set", "k", "app/").to_string();
        for part in parts {
            assert!(said.contains(part), "{part:?} in {said:?}");
        }
        assert!(!said.contains("app/"), "the root is not the caller's: {said:?}");
    }
}

#[test]
fn an_address_that_nobody_answers_is_worth_another_try_if_every_answer_is() {
    let attempt = |error| ("etcd".to_owned(), error);
    let none = |attempts: Vec<_>| Error::NoneAnswered { attempts };
    assert!(none(vec![attempt(Error::unavailable("refused")), attempt(Error::unavailable("late"))]).is_retryable());
    let denied = Error::permission_denied("no token");
    assert!(!none(vec![attempt(Error::unavailable("refused")), attempt(denied)]).is_retryable());
    assert!(!none(Vec::new()).is_retryable(), "nothing is linked that could answer");
}

#[test]
fn every_error_names_keys_relative_to_the_root() {
    let key = || "app/a".to_owned();
    let errors = [
        Error::NotFound { key: key() },
        Error::conflict(key(), 0),
        Error::Lost { key: key() },
        Error::Closed { key: key() },
        Error::LeftToLapse { keys: vec![key()], reason: "no answer".to_owned(), within: Duration::from_secs(1) },
        Error::InvalidKey { key: key(), reason: "it is too long for the server".to_owned() },
        Error::ValueTooLarge { key: key(), bytes: 2, max: 1 },
        Error::OverlappingWrites { key: key() },
        Error::ForeignLock { key: key(), held: "memory", backend: "etcd" },
        Error::unavailable("no answer"),
        Error::indeterminate("no answer"),
        Error::permission_denied("no"),
        Error::storage_full("no room"),
        Error::unexpected_answer("what"),
    ];
    for error in errors {
        let located = error.located("etcd", "set", "a", "app/").to_string();
        assert!(located.contains('a') && !located.contains("app/"), "{located}");
    }
    let outside = Error::Lost { key: "other/a".to_owned() }.located("etcd", "txn", "", "app/");
    assert!(matches!(outside, Error::Lost { key } if key == "other/a"), "a lock of another root keeps its name");
}
