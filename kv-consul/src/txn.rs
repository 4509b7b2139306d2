//! Transactions: what is to be applied as Consul's operations, and why it was not.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::StatusCode;
use kv_core::{Check, Error, Operation as Write, Result, Txn};

use crate::agent::Answer;
use crate::backend::{Store, TXN_OPS};
use crate::error::{Kind, Refusal, refusal};
use crate::read::unexpected;
use crate::wire::{KvOperation, LOCK_FLAGS, Operation, TxnAnswer};

/// What became of a transaction.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// All of it was applied; the largest index of an entry that it wrote or checked.
    Applied(Option<u64>),
    /// Nothing was applied, because of these operations.
    Refused(Vec<Refused>),
}

/// An operation that kept its transaction from being applied.
#[derive(Debug)]
pub(crate) struct Refused {
    /// Its position.
    pub(crate) at: usize,
    pub(crate) why: Refusal,
    /// Consul's own words.
    pub(crate) what: String,
}

impl<'a> Operation<'a> {
    fn new(verb: &'static str, key: &'a str) -> Self {
        Self { kv: KvOperation { verb, key, ..KvOperation::default() } }
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

    /// Requires that a key is locked by a session.
    pub(crate) fn check_session(key: &'a str, session: &'a str) -> Self {
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

    /// Deletes what begins with a string; Consul takes the empty one here, and here only.
    fn delete_tree(prefix: &'a str) -> Self {
        Self::new("delete-tree", prefix)
    }

    fn set(key: &'a str, data: &[u8], flags: u64) -> Self {
        let mut operation = Self::new("set", key);
        operation.kv.value = Some(STANDARD.encode(data));
        operation.kv.flags = Some(flags);
        operation
    }

    /// Locks a key for a session, which is to hold it alone, or holds it already, and sets its value.
    pub(crate) fn lock(key: &'a str, session: &'a str, data: &[u8], flags: u64) -> Self {
        let mut operation = Self::set(key, data, flags);
        operation.kv.verb = "lock";
        operation.kv.session = Some(session);
        operation
    }
}

impl Store {
    /// Flags that no other write carries, so that none is taken for a repetition of another.
    pub(crate) fn fresh_flags(&self) -> u64 {
        loop {
            let flags = self.nonce.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            if flags != LOCK_FLAGS {
                return flags;
            }
        }
    }

    /// What Consul is asked for, for a transaction of `kv-core`.
    pub(crate) fn operations<'a>(&'a self, txn: &'a Txn) -> impl Iterator<Item = Operation<'a>> {
        let checks = txn.checks.iter().map(|check| match check {
            Check::Index { key, index } => Operation::check_index(key, *index),
            Check::Held(guard) => Operation::check_session(&guard.key, &guard.owner),
        });
        let writes = txn.operations.iter().map(|write| match write {
            Write::Set { key, data } => Operation::set(key, data, self.fresh_flags()),
            Write::Delete { key } => Operation::delete(key),
            Write::DeletePrefix { prefix } => Operation::delete_tree(prefix),
        });
        checks.chain(writes)
    }

    /// Applies a transaction of `kv-core`.
    pub(crate) async fn commit(&self, txn: &Txn) -> Result<Option<u64>> {
        let operations: Vec<_> = self.operations(txn).collect();
        match self.transact(&operations).await? {
            // What it wrote has a greater index than anything that it only checked.
            Outcome::Applied(index) => {
                Ok(index.filter(|_| txn.operations.iter().any(|write| matches!(write, Write::Set { .. }))))
            }
            Outcome::Refused(refused) => Err(explain(txn, &refused)),
        }
    }

    /// Sends operations as one transaction.
    pub(crate) async fn transact(&self, operations: &[Operation<'_>]) -> Result<Outcome> {
        let body = serde_json::to_vec(operations)
            .map_err(|error| Error::unexpected_answer("a transaction that is no JSON").with_source(error))?;
        let too_large = |bytes| {
            let (max_operations, max_bytes) = (TXN_OPS, self.limits.txn_bytes);
            Error::TxnTooLarge { operations: operations.len(), bytes, max_operations, max_bytes }
        };
        let size = body.len();
        if size > self.body_limit {
            return Err(too_large(size));
        }
        let checks_only = operations.iter().all(|operation| operation.kv.verb.starts_with("check"));
        // One that writes nothing is a read to Consul, and may be stale like one.
        let (kind, consistent) = if checks_only { (Kind::Repeatable, "consistent") } else { (Kind::Once, "") };
        let answer = self.client.put(self.client.target("/v1/txn", &[consistent]), body.into(), kind).await?;
        match answer.status {
            StatusCode::OK => outcome(&answer).map_err(|error| match (kind, &error) {
                // It says that it was applied, if it can be believed.
                (Kind::Once, Error::UnexpectedAnswer { context, .. }) => {
                    Error::indeterminate(context.reason.clone()).with_source(error)
                }
                _ => error,
            }),
            StatusCode::CONFLICT => outcome(&answer),
            StatusCode::PAYLOAD_TOO_LARGE => Err(too_large(size)),
            _ => Err(unexpected(&answer)),
        }
    }
}

pub(crate) fn outcome(answer: &Answer) -> Result<Outcome> {
    let parsed: TxnAnswer<'_> =
        serde_json::from_slice(&answer.body).map_err(|error| unexpected(answer).with_source(error))?;
    if answer.status == StatusCode::OK {
        let results = parsed.results.unwrap_or_default();
        return Ok(Outcome::Applied(
            results.iter().filter_map(|result| result.kv.as_ref()).map(|kv| kv.modify_index).max(),
        ));
    }
    let errors = parsed.errors.unwrap_or_default();
    if errors.is_empty() {
        return Err(unexpected(answer));
    }
    let refused = errors.into_iter().map(|error| Refused {
        at: error.op_index,
        why: refusal(&error.what),
        what: crate::error::excerpt(error.what.as_bytes()),
    });
    Ok(Outcome::Refused(refused.collect()))
}

/// The error that a refusal of a check or write means. Of several the gravest counts.
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
        Error::unexpected_answer(format!("Consul refused a write that nothing speaks against: {what}"))
    })
}

/// The error of a refusal that has nothing to do with the state of the store.
pub(crate) fn fault(refused: &[Refused]) -> Option<Error> {
    let said = |why| refused.iter().find(|one| one.why == why).map(|one| format!("Consul refused: {}", one.what));
    said(Refusal::Denied)
        .map(Error::permission_denied)
        .or_else(|| said(Refusal::Malformed).map(Error::unexpected_answer))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use kv_core::Guard;

    use super::*;

    fn txn() -> Txn {
        let guard = Guard { key: "l".to_owned(), owner: "s".to_owned(), token: 1 };
        Txn {
            checks: vec![Check::Index { key: "a".to_owned(), index: 3 }, Check::Held(guard)],
            operations: vec![Write::Set { key: "b".to_owned(), data: Bytes::new() }],
        }
    }

    fn answer(status: StatusCode, body: &'static str) -> Answer {
        Answer { status, index: None, body: Bytes::from_static(body.as_bytes()), arriving: None }
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
    fn what_is_no_answer_of_consul_is_told() {
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
