//! Transactions: kv-core's operations in Consul's form, and the meaning of the answer.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::StatusCode;
use kv_core::backend::{Check, Operation as Write, Txn};
use kv_core::{Error, Result};

use super::answer::Answer;
use super::lock::entry_of;
use super::messages::{KvOperation, Operation, TxnAnswer};
use crate::error::{Refusal, excerpt, refusal};

/// What happened to a transaction.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// All operations were applied. Holds the largest index of an entry that the transaction wrote or checked.
    Applied(Option<u64>),
    /// Nothing was applied, because of these operations.
    Refused(Vec<Refused>),
}

/// An operation that prevented its transaction.
#[derive(Debug)]
pub(crate) struct Refused {
    /// Its position.
    pub(crate) at: usize,
    pub(crate) why: Refusal,
    /// Consul's own words.
    pub(crate) what: String,
}

impl<'a> Operation<'a> {
    fn new(verb: &'static str, key: impl Into<Cow<'a, str>>) -> Self {
        Self { kv: KvOperation { verb, key: key.into(), ..KvOperation::default() } }
    }

    /// Requires that a key has an index, or, for 0, that it does not exist.
    pub(crate) fn check_index(key: &'a str, index: u64) -> Self {
        if index == 0 {
            return Self::new("check-not-exists", key);
        }
        let mut operation = Self::new("check-index", key);
        operation.kv.index = Some(index);
        operation
    }

    /// Requires that a session holds the lock on a key.
    pub(crate) fn check_session(key: impl Into<Cow<'a, str>>, session: &'a str) -> Self {
        let mut operation = Self::new("check-session", key);
        operation.kv.session = Some(session);
        operation
    }

    pub(crate) fn get(key: &'a str) -> Self {
        Self::new("get", key)
    }

    pub(crate) fn delete(key: &'a str) -> Self {
        Self::new("delete", key)
    }

    /// Deletes all keys that begin with a string. Only this operation accepts the empty string.
    fn delete_tree(prefix: &'a str) -> Self {
        Self::new("delete-tree", prefix)
    }

    fn set(key: &'a str, data: &[u8], flags: u64) -> Self {
        let mut operation = Self::new("set", key);
        operation.kv.value = Some(STANDARD.encode(data));
        operation.kv.flags = Some(flags);
        operation
    }

    /// Locks a key for a session and sets its value. The key must be free, or locked by the same session.
    pub(crate) fn lock(key: &'a str, session: &'a str, data: &[u8], flags: u64) -> Self {
        let mut operation = Self::set(key, data, flags);
        operation.kv.verb = "lock";
        operation.kv.session = Some(session);
        operation
    }

    /// The length in bytes of the value that it writes.
    pub(crate) fn value_bytes(&self) -> usize {
        let padding = |text: &str| text.bytes().rev().take_while(|byte| *byte == b'=').count();
        self.kv.value.as_deref().map_or(0, |text| text.len() / 4 * 3 - padding(text))
    }

    /// Whether it changes nothing.
    pub(crate) fn is_check(&self) -> bool {
        self.kv.verb.starts_with("check")
    }
}

/// Turns a transaction of kv-core into Consul's operations. `fresh_flags` gives the flags of each write.
pub(crate) fn operations(txn: &Txn, fresh_flags: impl Fn() -> u64) -> impl Iterator<Item = Operation<'_>> {
    let checks = txn.checks.iter().map(|check| match check {
        Check::Index { key, index } => Operation::check_index(key, *index),
        Check::Held(guard) => Operation::check_session(entry_of(&guard.key), &guard.owner),
    });
    let writes = txn.operations.iter().map(move |write| match write {
        Write::Set { key, data } => Operation::set(key, data, fresh_flags()),
        Write::Delete { key } => Operation::delete(key),
        Write::DeletePrefix { prefix } => Operation::delete_tree(prefix),
    });
    checks.chain(writes)
}

/// Reads the answer of a transaction.
pub(crate) fn outcome(answer: &Answer) -> Result<Outcome> {
    let parsed: TxnAnswer<'_> = answer.json()?;
    if answer.status == StatusCode::OK {
        let results = parsed.results.unwrap_or_default();
        return Ok(Outcome::Applied(
            results.iter().filter_map(|result| result.kv.as_ref()).map(|kv| kv.modify_index).max(),
        ));
    }
    let errors = parsed.errors.unwrap_or_default();
    if errors.is_empty() {
        return Err(answer.unexpected());
    }
    let refused = errors.into_iter().map(|error| Refused {
        at: error.op_index,
        why: refusal(&error.what),
        what: excerpt(error.what.as_bytes()),
    });
    Ok(Outcome::Refused(refused.collect()))
}

/// The index to report for an applied transaction: none if it set nothing.
pub(crate) fn index_of(txn: &Txn, index: Option<u64>) -> Option<u64> {
    // An entry that the transaction wrote has a larger index than any that it only checked.
    index.filter(|_| txn.operations.iter().any(|write| matches!(write, Write::Set { .. })))
}

/// The error for a transaction that was refused. If there are several reasons, the most serious one counts.
pub(crate) fn explain(txn: &Txn, refused: &[Refused]) -> Error {
    if let Some(error) = fault(refused) {
        return error;
    }
    let failed = |at: usize| txn.checks.get(at);
    let held = refused.iter().find_map(|one| match failed(one.at) {
        Some(Check::Held(guard)) => Some(Error::Lost { key: guard.key.clone() }),
        _ => None,
    });
    let index = || {
        refused.iter().find_map(|one| match failed(one.at) {
            Some(Check::Index { key, .. }) => Some(Error::Conflict { key: key.clone() }),
            _ => None,
        })
    };
    held.or_else(index).unwrap_or_else(|| {
        let what = refused.first().map_or("nothing", |one| &one.what);
        Error::unexpected_answer(format!("Consul refused a write for no reason that is known: {what}"))
    })
}

/// The error for a refusal that does not depend on what is stored.
pub(crate) fn fault(refused: &[Refused]) -> Option<Error> {
    let said = |why| refused.iter().find(|one| one.why == why).map(|one| format!("Consul refused: {}", one.what));
    said(Refusal::Denied)
        .map(Error::permission_denied)
        .or_else(|| said(Refusal::Malformed).map(Error::unexpected_answer))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use kv_core::backend::Guard;
    use kv_core::backend::fate::Idempotence;

    use super::*;

    fn txn() -> Txn {
        let guard = Guard { key: "l".to_owned(), owner: "s".to_owned(), token: 1 };
        Txn {
            checks: vec![Check::Index { key: "a".to_owned(), index: 3 }, Check::Held(guard)],
            operations: vec![Write::Set { key: "b".to_owned(), data: Bytes::new() }],
        }
    }

    fn answer(status: StatusCode, body: &'static str) -> Answer {
        Answer { status, index: None, body: Bytes::from_static(body.as_bytes()), idempotence: Idempotence::Repeatable }
    }

    fn explained(body: &'static str) -> Error {
        match outcome(&answer(StatusCode::CONFLICT, body)).expect("an answer of Consul's") {
            Outcome::Refused(refused) => explain(&txn(), &refused),
            Outcome::Applied(_) => panic!("it was refused"),
        }
    }

    #[test]
    fn the_failed_check_is_named() {
        let stale = r#"{"Results":null,"Errors":[{"OpIndex":0,"What":"failed index check for key \"a\", current modify index 4 != 3"}]}"#;
        assert!(matches!(explained(stale), Error::Conflict { key } if key == "a"));
        let lost = r#"{"Errors":[{"OpIndex":0,"What":"failed to check index, key \"a\" doesn't exist"},{"OpIndex":1,"What":"failed to check session, key \"l\" doesn't exist"}]}"#;
        assert!(matches!(explained(lost), Error::Lost { key } if key == "l"));
        let denied = r#"{"Errors":[{"OpIndex":2,"What":"Permission denied"}]}"#;
        assert!(matches!(explained(denied), Error::PermissionDenied { .. }));
        let malformed = r#"{"Errors":[{"OpIndex":0,"What":"Must provide key"}]}"#;
        assert!(matches!(explained(malformed), Error::UnexpectedAnswer { .. }));
    }

    #[test]
    fn the_index_is_that_of_the_write() {
        let body =
            r#"{"Results":[{"KV":{"Key":"l","ModifyIndex":5}},{"KV":{"Key":"b","ModifyIndex":9}}],"Errors":null}"#;
        assert!(matches!(outcome(&answer(StatusCode::OK, body)), Ok(Outcome::Applied(Some(9)))));
        let none = r#"{"Results":[],"Errors":null}"#;
        assert!(matches!(outcome(&answer(StatusCode::OK, none)), Ok(Outcome::Applied(None))));
    }

    #[test]
    fn an_answer_that_consul_does_not_give_is_unexpected() {
        for body in ["", "<html>", "[]", "{\"Errors\":[]}", "{\"Errors\":null}"] {
            let result = outcome(&answer(StatusCode::CONFLICT, body));
            assert!(matches!(result, Err(Error::UnexpectedAnswer { .. })), "{body}");
        }
    }

    #[test]
    fn operations_are_written_as_consul_reads_them() {
        let json = |operation: Operation<'_>| serde_json::to_string(&operation).expect("valid");
        assert_eq!(json(Operation::check_index("a", 0)), r#"{"KV":{"Verb":"check-not-exists","Key":"a"}}"#);
        assert_eq!(json(Operation::check_index("a", 7)), r#"{"KV":{"Verb":"check-index","Key":"a","Index":7}}"#);
        let set = r#"{"KV":{"Verb":"set","Key":"a\"","Value":"AA==","Flags":18446744073709551615}}"#;
        assert_eq!(json(Operation::set("a\"", &[0], u64::MAX)), set);
        let lock = r#"{"KV":{"Verb":"lock","Key":"a","Value":"","Flags":1,"Session":"s"}}"#;
        assert_eq!(json(Operation::lock("a", "s", b"", 1)), lock);
    }
}
