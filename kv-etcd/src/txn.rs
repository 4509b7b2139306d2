//! Writes: transactions, and the cheaper native requests for those with one operation.

use std::sync::Arc;

use bytes::Bytes;
use kv_core::backend::call::Call;
use kv_core::backend::fate::Idempotence;
use kv_core::backend::{Check, Operation, Txn};
use kv_core::{Error, Result};

use crate::api::compare::equal;
use crate::api::messages::{
    Compare, CompareTarget, DeleteRangeRequest, KeyValue, Operand, PutRequest, RangeResponse, Request, RequestOp,
    Response, ResponseOp, TxnRequest,
};
use crate::api::range::{Range, index, revision, signed};
use crate::batch::{Batcher, Job, LARGEST};
use crate::error::Failed;
use crate::large_keys::LargeKeys;
use crate::transport::client::{Client, Volume};

/// The largest request that etcd accepts by default (`--max-request-bytes`), in bytes, with its envelope.
const REQUEST_BYTES: usize = 1_572_864;
/// The most bytes of a full transaction besides keys and values: about 40 for each of 128 checks and operations, the
/// names of locks a second time, and etcd's own header.
const ENVELOPE_BYTES: usize = 16 << 10;
/// The longest key, in bytes. etcd itself limits only the request.
pub(crate) const KEY_BYTES: usize = 4096;
/// The most bytes of keys and values in one transaction.
pub(crate) const TXN_BYTES: usize = REQUEST_BYTES - ENVELOPE_BYTES;
/// The largest value, in bytes: with a key of any length it fits into a transaction.
pub(crate) const VALUE_BYTES: usize = TXN_BYTES - KEY_BYTES;
/// The most comparisons, and the most operations (`--max-txn-ops`): etcd counts the two separately.
pub(crate) const TXN_OPS: usize = 128;

/// Writes, from any runtime.
pub(crate) struct Writer {
    client: Arc<Client>,
    /// Writes of single keys.
    writes: Batcher<Write>,
    large: Arc<LargeKeys>,
}

impl Writer {
    pub(crate) fn new(client: &Arc<Client>, large: &Arc<LargeKeys>) -> Self {
        Self { client: Arc::clone(client), writes: Batcher::new(client), large: Arc::clone(large) }
    }

    pub(crate) async fn commit(&self, mut txn: Txn) -> Result<Option<u64>> {
        let mut sets = false;
        for operation in &txn.operations {
            if let Operation::Set { key, data } = operation {
                sets = true;
                self.large.note(key.as_bytes(), data.len() > LARGEST);
            }
        }
        if let Some(write) = Write::of(&mut txn) {
            let applied = self.writes.submit(write).await?;
            return applied.ok_or_else(|| first_failure(&txn.checks, Vec::new())).map(|index| sets.then_some(index));
        }
        let asks = asks_which(&txn);
        let size = if txn.bytes() > LARGEST { Volume::Large } else { Volume::Small };
        let success = if txn.operations.is_empty() {
            // A member evaluates comparisons alone on its own state, which may be old: etcd's `isTxnSerializable` holds
            // for such a transaction. With a read in it, the member catches up first.
            questions(&txn.checks[..1])
        } else {
            txn.operations.into_iter().map(|operation| Request::from(operation).into()).collect()
        };
        let request = TxnRequest {
            compare: compare(&txn.checks),
            success,
            failure: if asks { questions(&txn.checks) } else { Vec::new() },
        };
        let caller = Call::current();
        let answer = self.client.call_for(std::slice::from_ref(&caller), size, request).await?;
        if answer.succeeded {
            return Ok(if sets { Some(revision(answer.header.as_ref())?) } else { None });
        }
        let responses = if answer.responses.is_empty() && txn.checks.len() > 1 {
            // The request had no room for these reads. The transaction has failed, so they can be sent now.
            let ask = TxnRequest { success: questions(&txn.checks), ..TxnRequest::default() };
            self.client.call(ask).await.map(|answer| answer.responses).unwrap_or_default()
        } else {
            answer.responses
        };
        Err(first_failure(&txn.checks, responses))
    }
}

/// A write of one key, perhaps with a check of that key. It may travel with others.
#[derive(Clone)]
pub(crate) struct Write {
    key: Bytes,
    /// The required index of the key, if any.
    index: Option<u64>,
    /// The new value; `None` deletes the key.
    data: Option<Bytes>,
}

impl Write {
    /// Takes such a write out of a transaction, if it is one; the checks stay in the transaction.
    fn of(txn: &mut Txn) -> Option<Self> {
        let [Operation::Set { key, .. } | Operation::Delete { key }] = txn.operations.as_slice() else { return None };
        let index = match txn.checks.as_slice() {
            [] => None,
            [Check::Index { key: checked, index }] if checked == key => Some(*index),
            _ => return None,
        };
        let (key, data) = match txn.operations.pop()? {
            Operation::Set { key, data } => (key, Some(data)),
            Operation::Delete { key } | Operation::DeletePrefix { prefix: key } => (key, None),
        };
        Some(Self { key: key.into(), index, data })
    }

    fn operation(self) -> Request {
        match self.data {
            Some(value) => Request::Put(PutRequest { key: self.key, value, lease: 0 }),
            None => Request::DeleteRange(DeleteRangeRequest { key: self.key, range_end: Bytes::new() }),
        }
    }

    /// The write as a transaction that requires an index of the key.
    fn conditional(self, index: u64) -> TxnRequest {
        let compare = equal(CompareTarget::Mod, self.key.clone(), Operand::ModRevision(signed(index)));
        TxnRequest { compare: vec![compare], success: vec![self.operation().into()], failure: Vec::new() }
    }
}

impl Job for Write {
    /// The index of the write; `None` if the key did not have the required index.
    type Answer = Option<u64>;
    const IDEMPOTENCE: Idempotence = Idempotence::Once;

    fn window(operations: usize) -> usize {
        // The members agree on one write after another. Meanwhile etcd is idle, so it can take more requests.
        if operations < 64 { 3 } else { 4 }
    }

    fn key(&self) -> &Bytes {
        &self.key
    }

    fn bytes(&self) -> usize {
        self.key.len() + self.data.as_ref().map_or(0, Bytes::len)
    }

    async fn alone(self, client: &Client, caller: &[Call]) -> Result<Self::Answer, Failed> {
        let size = self.size();
        let header = if let Some(index) = self.index {
            let answer = client.call_for(caller, size, self.conditional(index)).await?;
            if !answer.succeeded {
                return Ok(None);
            }
            answer.header
        } else if let Some(value) = self.data {
            client.call_for(caller, size, PutRequest { key: self.key, value, lease: 0 }).await?.header
        } else {
            client.call_for(caller, size, DeleteRangeRequest { key: self.key, range_end: Bytes::new() }).await?.header
        };
        revision(header.as_ref()).map(Some)
    }

    fn part(self) -> RequestOp {
        match self.index {
            Some(index) => Request::Txn(self.conditional(index)).into(),
            None => self.operation().into(),
        }
    }

    fn answer(part: Option<Response>, revision: u64) -> Option<Self::Answer> {
        match part? {
            Response::Put(_) | Response::DeleteRange(_) => Some(Some(revision)),
            Response::Txn(txn) => Some(txn.succeeded.then_some(revision)),
            Response::Range(_) => None,
        }
    }
}

impl From<Operation> for Request {
    fn from(operation: Operation) -> Self {
        let delete = |Range { key, end }| Self::DeleteRange(DeleteRangeRequest { key, range_end: end });
        match operation {
            Operation::Set { key, data } => Self::Put(PutRequest { key: key.into(), value: data, lease: 0 }),
            Operation::Delete { key } => delete(Range { key: key.into(), end: Bytes::new() }),
            Operation::DeletePrefix { prefix } => delete(Range::prefix(&prefix)),
        }
    }
}

/// The comparisons that hold exactly if the checks hold.
fn compare(checks: &[Check]) -> Vec<Compare> {
    let of_revision =
        |key: &str, revision| equal(CompareTarget::Mod, Range::key(key).key, Operand::ModRevision(signed(revision)));
    let compare_one = |check: &Check| match check {
        Check::Index { key, index } => of_revision(key, *index),
        // The entry of a lock is written once, when it is created. A write of another client, which detaches it from its
        // lease, changes this revision. So does the next entry on the same lease, since leases are used again.
        Check::Held(guard) => of_revision(&guard.owner, guard.token),
    };
    checks.iter().map(compare_one).collect()
}

/// Whether the transaction itself reads the checked keys when it fails, which shows the check that failed.
///
/// With only one check that is known. The keys that are read must not make a full request too large.
fn asks_which(txn: &Txn) -> bool {
    let asked: usize = txn.checks.iter().map(|check| checked_key(check).len()).sum();
    txn.checks.len() > 1 && txn.bytes() + asked <= TXN_BYTES
}

fn questions(checks: &[Check]) -> Vec<RequestOp> {
    let question = |check| {
        let mut request = Range::key(checked_key(check)).request();
        // The entry of a lock is read in full, because its lease is needed. Such entries are small.
        request.keys_only = matches!(check, Check::Index { .. });
        Request::Range(request).into()
    };
    checks.iter().map(question).collect()
}

fn checked_key(check: &Check) -> &str {
    match check {
        Check::Index { key, .. } => key,
        Check::Held(guard) => &guard.owner,
    }
}

/// The error for the first check that the answers contradict, or else for the first check. With one check that is
/// right. With several it is the best guess, because the keys may have changed between the check and the read.
fn first_failure(checks: &[Check], answers: Vec<ResponseOp>) -> Error {
    let found = |answer: ResponseOp| match answer.response {
        Some(Response::Range(RangeResponse { kvs, .. })) => kvs.into_iter().next(),
        _ => None,
    };
    let mut answered = checks.iter().zip(answers.into_iter().map(found));
    let failed = answered.find(|(check, kv)| !holds(check, kv.as_ref())).map(|(check, _)| check);
    match failed.or(checks.first()) {
        Some(Check::Index { key, index }) => Error::conflict(key, *index),
        Some(Check::Held(guard)) => Error::Lost { key: guard.key.clone() },
        None => Error::unexpected_answer("a transaction without conditions was refused"),
    }
}

fn holds(check: &Check, kv: Option<&KeyValue>) -> bool {
    match check {
        Check::Index { index: expected, .. } => kv.map_or(0, |kv| index(kv.mod_revision)) == *expected,
        Check::Held(guard) => kv.is_some_and(|kv| index(kv.mod_revision) == guard.token),
    }
}

#[cfg(test)]
mod tests {
    use kv_core::ConflictKind;
    use kv_core::backend::Guard;
    use prost::Message as _;

    use super::*;

    fn answer(mod_revision: i64, create_revision: i64) -> ResponseOp {
        let kvs = vec![KeyValue { create_revision, mod_revision, ..KeyValue::default() }];
        ResponseOp { response: Some(Response::Range(RangeResponse { kvs, ..RangeResponse::default() })) }
    }

    fn nothing() -> ResponseOp {
        ResponseOp { response: Some(Response::Range(RangeResponse::default())) }
    }

    #[test]
    fn the_check_that_failed_is_named() {
        let checks = [
            Check::Index { key: "a".into(), index: 5 },
            Check::Index { key: "b".into(), index: 0 },
            Check::Held(Guard { key: "lock".into(), owner: "lock/1f".into(), token: 3 }),
        ];
        let conflict = |answers| first_failure(&checks, answers);
        assert!(
            matches!(conflict(vec![nothing(), nothing(), answer(3, 3)]), Error::Conflict { key, kind: ConflictKind::Changed } if key == "a")
        );
        assert!(
            matches!(conflict(vec![answer(5, 2), answer(6, 6), nothing()]), Error::Conflict { key, kind: ConflictKind::Exists } if key == "b")
        );
        assert!(matches!(conflict(vec![answer(5, 2), nothing(), nothing()]), Error::Lost { key } if key == "lock"));
        assert!(matches!(conflict(vec![answer(5, 2), nothing(), answer(9, 4)]), Error::Lost { key } if key == "lock"));
    }

    #[test]
    fn the_largest_transaction_fits_into_a_request() {
        let checks: Vec<Check> =
            (0..TXN_OPS - 1).map(|i| Check::Index { key: format!("{i:0>4096}"), index: u64::MAX >> 1 }).collect();
        let keys: usize = checks.iter().map(|check| checked_key(check).len()).sum();
        let value = Operation::Set { key: "k".into(), data: vec![0; TXN_BYTES - keys - 1].into() };
        let txn = Txn { checks, operations: vec![value] };
        assert_eq!(txn.bytes(), TXN_BYTES);
        assert!(!asks_which(&txn));
        let request = TxnRequest {
            compare: compare(&txn.checks),
            success: txn.operations.iter().cloned().map(|operation| Request::from(operation).into()).collect(),
            failure: Vec::new(),
        };
        assert!(request.encoded_len() + 512 < REQUEST_BYTES, "{}", request.encoded_len());
    }
}
