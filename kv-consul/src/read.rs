//! Reads.

use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use kv_core::backend::Snapshot;
use kv_core::backend::fate::Idempotence;
use kv_core::{Error, Result, Value};
use tokio::time::Instant;

use crate::api::answer::Answer;
use crate::api::decoder::ListingDecoder;
use crate::api::entries::{decode, entries};
use crate::api::listing::Listing;
use crate::api::messages::{AgentSelf, Operation, ReadAnswer, ReadResult};
use crate::api::path;
use crate::api::state::{Scope, State};
use crate::api::transaction::{Outcome, Refused, fault, outcome};
use crate::error::{EXCERPT, Refusal};
use crate::settings::TXN_OPS;
use crate::shared::Shared;
use crate::transport::Response;
use crate::transport::callers::Callers;
use crate::transport::client::{Client, LISTING, SMALL};

/// The directory that `ping` reads. It is empty.
const PING: &str = "/v1/kv/.kv-ping/";

/// A key that stands for all keys in a question about the permission for everything.
const ANY_KEY: &str = ".kv-ping";

/// How long after its wait a blocking query must have been answered.
const MARGIN: Duration = Duration::from_secs(5);

/// The entry of a lock.
#[derive(Debug)]
pub(crate) struct LockEntry {
    pub(crate) flags: u64,
    /// The session that holds the lock.
    pub(crate) session: Option<String>,
    pub(crate) modify_index: u64,
}

/// Succeeds if the server is Consul, has a leader, and a quorum follows that leader. Returns the index of the store if
/// the token may read it.
pub(crate) async fn ping(client: &Client) -> Result<Option<u64>> {
    let result = client.get(client.target(PING, &["keys", "separator=/", "consistent"]), SMALL).await;
    match result.and_then(|answer| answer.index()) {
        // Consul knows the token, but the token may not read here. Every token may ask for the leader.
        Err(Error::PermissionDenied { context, .. }) if context.reason.contains("Permission denied") => {
            let answer = client.get(client.target("/v1/status/leader", &[]), SMALL).await?;
            let leader: String = answer.json()?;
            if leader.is_empty() { Err(Error::unavailable("the cluster has no leader")) } else { Ok(None) }
        }
        other => other.map(Some),
    }
}

/// Reads an agent's configuration. If that is not permitted or not understood, the defaults apply; `ping` finds out
/// whether the agent serves.
pub(crate) async fn agent(client: &Client, again_and_again: bool) -> Result<AgentSelf> {
    let target = client.target("/v1/agent/self", &[]);
    let answer = if again_and_again { client.get(target, SMALL).await } else { client.ask_once(target).await };
    match answer {
        Ok(answer) => Ok(serde_json::from_slice(&answer.body).unwrap_or_default()),
        Err(error) if error.is_retryable() => Err(error),
        Err(error) => {
            tracing::debug!(%error, "the agent's configuration cannot be read; its defaults are assumed");
            Ok(AgentSelf::default())
        }
    }
}

/// Reads one key.
pub(crate) async fn get(shared: &Shared, callers: &Callers, key: &str) -> Result<Value> {
    if !path::is_queryable(key) {
        return get_by_txn(shared, callers, key).await;
    }
    let client = shared.client()?;
    let answer = client.get_for(callers, client.target(&path::kv(key), &[client.consistency()]), SMALL).await?;
    answer.index()?;
    let Some(entry) = entries(&answer)?.pop() else {
        return Err(Error::NotFound { key: key.to_owned() });
    };
    Ok(Value { data: decode(entry.value.unwrap_or_default())?, index: entry.modify_index })
}

/// Reads a key that no path can name, by a transaction of one operation.
async fn get_by_txn(shared: &Shared, callers: &Callers, key: &str) -> Result<Value> {
    match get_together(shared, callers, &[Operation::get(key)]).await? {
        Found::Refused(refused) => Err(fault(&refused).unwrap_or_else(|| Error::NotFound { key: key.to_owned() })),
        // Consul leaves out what the token may not read.
        Found::All(found) => found
            .into_iter()
            .next()
            .map(|(_, value)| value)
            .ok_or_else(|| Error::permission_denied("Consul shows nothing of this key")),
    }
}

/// What a transaction that only reads has found.
pub(crate) enum Found {
    /// The entries that it read, and that the token may read.
    All(Vec<(String, Value)>),
    /// Nothing, because of these operations.
    Refused(Vec<Refused>),
}

/// Reads or checks several keys, in one transaction.
pub(crate) async fn get_together(shared: &Shared, callers: &Callers, operations: &[Operation<'_>]) -> Result<Found> {
    let client = shared.client()?;
    let answer = transact(&client, callers, operations, client.consistency()).await?;
    match outcome(&answer)? {
        Outcome::Refused(refused) => Ok(Found::Refused(refused)),
        Outcome::Applied(_) => {
            let found = answer.json::<ReadAnswer<'_>>()?.results;
            // Checks alone have no results. That is also what the elements of a list would be taken for.
            let is_complete = found.is_some() || operations.iter().all(Operation::is_check);
            if !is_complete || !answer.body.starts_with(b"{") {
                return Err(answer.unexpected());
            }
            let entry = |ReadResult { kv }: ReadResult<'_>| {
                let data = decode(kv.value.unwrap_or_default())?;
                Ok((kv.key.into_owned(), Value { data, index: kv.modify_index }))
            };
            found.unwrap_or_default().into_iter().map(entry).collect::<Result<_>>().map(Found::All)
        }
    }
}

/// Sends a transaction that only reads.
async fn transact(
    client: &Client,
    callers: &Callers,
    operations: &[Operation<'_>],
    consistency: &str,
) -> Result<Answer> {
    let body = serde_json::to_vec(operations)
        .map_err(|error| Error::unexpected_answer("a key cannot be written as JSON").with_source(error))?;
    let target = client.target("/v1/txn", &[consistency]);
    client.put_for(callers, target, body.into(), Idempotence::Repeatable).await
}

/// The positions of the keys that the token may not read.
///
/// Consul leaves out of a listing what the token may not read, and does not say so. A transaction with a check reports
/// it, whether or not the key exists.
pub(crate) async fn denied(client: &Client, keys: &[&str]) -> Result<Vec<usize>> {
    let mut denied = Vec::new();
    for (number, keys) in keys.chunks(TXN_OPS).enumerate() {
        // No entry has this index. So the transaction always fails, and reports which keys are not permitted.
        let checks: Vec<_> = keys.iter().map(|key| Operation::check_index(*key, 1)).collect();
        let answer = transact(client, &Callers::current(), &checks, "consistent").await?;
        // A server that answers differently does not say that anything is denied.
        if let Ok(Outcome::Refused(refused)) = outcome(&answer) {
            let of_access = refused.iter().filter(|one| one.why == Refusal::Denied);
            denied.extend(of_access.map(|one| number * TXN_OPS + one.at));
        }
    }
    Ok(denied)
}

/// Fails if the token may not read a prefix of which a listing shows nothing ([clause E8](kv_core::contract::CLAUSES#E8)).
pub(crate) async fn check_access(shared: &Shared, prefix: &str) -> Result<()> {
    let key = if prefix.is_empty() { ANY_KEY } else { prefix };
    if !shared.settings.get().has_acls || denied(&*shared.client()?, &[key]).await?.is_empty() {
        return Ok(());
    }
    Err(Error::permission_denied("Consul shows nothing of this prefix, and the token may not read it"))
}

/// Reads all keys that begin with `prefix`. Also returns their state, from which a watch can continue.
pub(crate) async fn list(shared: &Shared, prefix: &str) -> Result<(Snapshot, State)> {
    let client = shared.client()?;
    let (path, recurse) = place(Scope::Prefix(prefix));
    let target = client.target(&path, &[recurse, client.consistency()]);
    let (snapshot, state) = client.get_with(target, LISTING, |response| receive_list(response, prefix)).await?;
    if state.len() == 0 {
        check_access(shared, prefix).await?;
    }
    Ok((snapshot, state))
}

/// Decodes a listing while it arrives.
async fn receive_list(mut response: Response, prefix: &str) -> Result<(Snapshot, State)> {
    if response.status != StatusCode::OK {
        let answer = response.whole().await?;
        let index = answer.index()?;
        return match answer.status {
            StatusCode::NOT_FOUND => Ok((Snapshot { entries: Vec::new(), index }, State::default())),
            _ => Err(answer.unexpected()),
        };
    }
    let (mut decoder, mut beginning) = (ListingDecoder::new(prefix), Bytes::new());
    while let Some(piece) = response.piece().await? {
        decoder.piece(&piece)?;
        if beginning.is_empty() {
            beginning = Bytes::copy_from_slice(&piece[..piece.len().min(EXCERPT)]);
        }
    }
    // The beginning of the body is enough to quote it in an error.
    let answer = Answer {
        status: response.status,
        index: response.index,
        body: beginning,
        idempotence: Idempotence::Repeatable,
    };
    let index = answer.index()?;
    let (entries, state) = decoder.finish(&answer)?;
    Ok((Snapshot { entries, index }, state))
}

/// Reads all keys of a prefix, consistently. A watch begins with this.
pub(crate) async fn first_listing(shared: &Shared, prefix: &str) -> Result<Listing> {
    let listing = listing(&*shared.client()?, Scope::Prefix(prefix)).await?;
    if listing.state.len() == 0 {
        check_access(shared, prefix).await?;
    }
    Ok(listing)
}

/// Reads all keys of a scope, consistently.
pub(crate) async fn listing(client: &Client, scope: Scope<'_>) -> Result<Listing> {
    let (path, recurse) = place(scope);
    let asked = Instant::now();
    let answer = client.get(client.target(&path, &[recurse, "consistent"]), LISTING).await?;
    Listing::parse(&answer, asked, scope)
}

/// Reads the entry of a lock, consistently.
pub(crate) async fn lock_entry(client: &Client, key: &str) -> Result<(Listing, Option<LockEntry>)> {
    let asked = Instant::now();
    let (path, recurse) = place(Scope::Key(key));
    let answer = client.get(client.target(&path, &[recurse, "consistent"]), LISTING).await?;
    let listing = Listing::parse(&answer, asked, Scope::Key(key))?;
    let entry = entries(&answer)?.into_iter().find(|entry| entry.key == key).map(|entry| LockEntry {
        flags: entry.flags,
        session: entry.session.filter(|session| !session.is_empty()).map(str::to_owned),
        modify_index: entry.modify_index,
    });
    Ok((listing, entry))
}

/// Waits until something in the scope has an index above `index`, and then reads the scope. With 0 it does not wait.
///
/// After `wait` it returns even if nothing changed
/// (<https://developer.hashicorp.com/consul/api-docs/features/blocking>).
pub(crate) async fn changed_listing(client: &Client, scope: Scope<'_>, index: u64, wait: Duration) -> Result<Listing> {
    let (path, recurse) = place(scope);
    let (from, time) = (format!("index={index}"), format!("wait={}s", wait.as_secs()));
    let target = client.target(&path, &[recurse, "consistent", &from, &time]);
    let asked = Instant::now();
    let answer = client.wait(target, limit(wait)).await?;
    Listing::parse(&answer, asked, scope)
}

/// How long the answer to a blocking query may take. Consul adds up to a sixteenth, so that queries do not end together.
fn limit(wait: Duration) -> Duration {
    wait + wait / 16 + MARGIN
}

/// The path of a scope, and the parameter that selects everything below it.
fn place(scope: Scope<'_>) -> (String, &'static str) {
    match scope {
        Scope::Key(key) if path::is_queryable(key) => (path::kv(key), ""),
        Scope::Key(text) | Scope::Prefix(text) => (path::kv(path::queryable(text)), "recurse"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_longer_than_the_wait_and_its_jitter() {
        for wait in [1, 20].map(Duration::from_secs) {
            assert!(limit(wait) > wait + wait / 16);
        }
    }
}
