//! Which deleted keys were entries of locks ([clause L10](kv_core::contract::CLAUSES#L10)).

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use kv_core::backend::backoff::{Backoff, Recovery};
use kv_core::{Error, Result};
use tokio::time::sleep;

use crate::api::lock_entry::is_lock_entry;
use crate::api::messages::{RangeRequest, Request, Response, TxnRequest};
use crate::api::range::signed;
use crate::config::NAME;
use crate::error::Failed;
use crate::transport::client::Client;

/// The most keys that one transaction reads. etcd accepts 128 operations.
const MOST: usize = 64;

/// The deletion of a key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Deletion {
    pub(super) key: Bytes,
    pub(super) index: u64,
}

/// Returns those deletions that removed entries of locks. Like a watch, it retries across disconnects.
///
/// # Errors
/// `Compacted` if the revision before a deletion is gone: then it is unknown what the key was.
pub(super) async fn lock_entries(client: &Client, deletions: Vec<Deletion>) -> Result<HashSet<Deletion>> {
    let mut recovery = Recovery::new(NAME, "watch", Backoff::new(Duration::from_millis(50), Duration::from_secs(2)));
    let mut found = HashSet::new();
    let mut groups: Vec<&[Deletion]> = deletions.chunks(MOST).collect();
    while let Some(group) = groups.pop() {
        match ask(client, group).await {
            Ok(locks) => {
                recovery.worked();
                found.extend(locks);
            }
            Err(failed) if failed.is_too_large() && group.len() > 1 => {
                let (one, other) = group.split_at(group.len() / 2);
                groups.extend([one, other]);
            }
            Err(failed) if failed.is_compacted() => return Err(Error::Compacted { after: 0, oldest: None }),
            Err(failed) => {
                let error = Error::from(failed);
                if matches!(error, Error::PermissionDenied { .. }) {
                    return Err(error);
                }
                groups.push(group);
                sleep(recovery.failed(&error)).await;
            }
        }
    }
    Ok(found)
}

/// Reads each key as it was just before its deletion.
async fn ask(client: &Client, group: &[Deletion]) -> Result<Vec<Deletion>, Failed> {
    let before = |deletion: &Deletion| {
        let (key, revision) = (deletion.key.clone(), signed(deletion.index.saturating_sub(1)));
        Request::Range(RangeRequest { key, revision, ..RangeRequest::default() }).into()
    };
    let request = TxnRequest { success: group.iter().map(before).collect(), ..TxnRequest::default() };
    let answer = client.call(request).await?;
    if answer.responses.len() != group.len() {
        return Err(Failed::unexpected("an answer is missing"));
    }
    let was_lock = |(deletion, part): (&Deletion, _)| match part {
        Some(Response::Range(range)) => {
            let entry = range.kvs.iter().any(|kv| is_lock_entry(&kv.key, kv.lease));
            entry.then(|| deletion.clone())
        }
        _ => None,
    };
    let parts = answer.responses.into_iter().map(|part| part.response);
    Ok(group.iter().zip(parts).filter_map(was_lock).collect())
}
