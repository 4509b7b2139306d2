//! Which of some keys are entries of locks at a revision ([clause L10](kv_core::contract::CLAUSES#L10)).
//!
//! A range with `keys_only` has no leases. A full range has the values too, which may be large if the keys are data. So
//! a transaction first compares the leases with 0. If the keys are data, no key has a lease, and no value is sent.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use super::paging::next_key;
use crate::api::compare::unleased;
use crate::api::lock_entry::is_lock_entry;
use crate::api::messages::{KeyValue, RangeRequest, Request, RequestOp, Response, TxnRequest, TxnResponse};
use crate::api::range::Range;
use crate::error::Failed;
use crate::transport::client::Client;

/// The most runs of keys in one transaction: etcd accepts 128 comparisons and operations.
const MOST_RUNS: usize = 64;
/// The most keys in one transaction.
const MOST_KEYS: usize = 2_000;

/// A key in a listing that may be an entry of a lock.
#[derive(Clone)]
pub(crate) struct Candidate {
    pub(crate) key: Bytes,
    pub(crate) mod_revision: i64,
    /// Whether no other key lies between it and the candidate before it, so that one range has both.
    pub(crate) follows: bool,
}

/// The keys of the candidates that were entries of locks at `revision`. The candidates are in order.
pub(crate) async fn lock_entries(
    client: &Client,
    candidates: &[Candidate],
    revision: i64,
) -> Result<HashSet<Bytes>, Failed> {
    let mut found = HashSet::new();
    let mut groups = groups(candidates);
    while let Some(group) = groups.pop() {
        match ask(client, group, revision).await {
            Ok(keys) => found.extend(keys),
            Err(failed) if failed.is_too_large() && group.len() > 1 => {
                let (one, other) = group.split_at(group.len() / 2);
                groups.extend([one, other]);
            }
            Err(failed) => return Err(failed),
        }
    }
    Ok(found)
}

async fn ask(client: &Client, group: &[Candidate], revision: i64) -> Result<Vec<Bytes>, Failed> {
    let runs: Vec<Range> = group
        .chunk_by(|_, next| next.follows)
        .filter_map(|run| Some(Range { key: run.first()?.key.clone(), end: next_key(&run.last()?.key) }))
        .collect();
    let now: Vec<RequestOp> = runs.iter().map(|run| range(RangeRequest { keys_only: true, ..run.request() })).collect();
    let then: Vec<RequestOp> = runs.iter().map(|run| range(RangeRequest { revision, ..run.request() })).collect();
    let compare = runs.into_iter().map(unleased).collect();
    let answer = client.call(TxnRequest { compare, success: now, failure: then.clone() }).await?;
    if !answer.succeeded {
        return Ok(entries(answer));
    }
    // No key has a lease now. Had no key one at the revision either? Yes, if no candidate has changed since.
    let unchanged: HashMap<Bytes, i64> = kvs(answer).map(|kv| (kv.key, kv.mod_revision)).collect();
    if group.iter().all(|candidate| unchanged.get(&candidate.key) == Some(&candidate.mod_revision)) {
        return Ok(Vec::new());
    }
    Ok(entries(client.call(TxnRequest { success: then, ..TxnRequest::default() }).await?))
}

fn range(request: RangeRequest) -> RequestOp {
    Request::Range(request).into()
}

fn entries(answer: TxnResponse) -> Vec<Bytes> {
    kvs(answer).filter(|kv| is_lock_entry(&kv.key, kv.lease)).map(|kv| kv.key).collect()
}

fn kvs(answer: TxnResponse) -> impl Iterator<Item = KeyValue> {
    answer.responses.into_iter().flat_map(|part| match part.response {
        Some(Response::Range(range)) => range.kvs,
        _ => Vec::new(),
    })
}

/// Cuts the candidates into groups, each for one transaction.
fn groups(mut candidates: &[Candidate]) -> Vec<&[Candidate]> {
    let mut groups = Vec::new();
    while !candidates.is_empty() {
        let mut runs = 0;
        let fits = |(at, candidate): &(usize, &Candidate)| {
            runs += usize::from(*at == 0 || !candidate.follows);
            runs <= MOST_RUNS
        };
        let size = candidates.iter().take(MOST_KEYS).enumerate().take_while(fits).count();
        let (group, rest) = candidates.split_at(size);
        groups.push(group);
        candidates = rest;
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(count: usize, follows: bool) -> Vec<Candidate> {
        vec![Candidate { key: Bytes::new(), mod_revision: 1, follows }; count]
    }

    #[test]
    fn a_group_is_no_larger_than_a_transaction_may_be() {
        let sizes = |candidates: &[Candidate]| groups(candidates).iter().map(|group| group.len()).collect::<Vec<_>>();
        assert_eq!(sizes(&[]), []);
        assert_eq!(sizes(&candidates(1, false)), [1]);
        assert_eq!(sizes(&candidates(MOST_RUNS + 1, false)), [MOST_RUNS, 1]);
        assert_eq!(sizes(&candidates(MOST_KEYS + 1, true)), [MOST_KEYS, 1]);
    }
}
