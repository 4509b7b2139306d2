//! Writes.

use kv_core::Result;
use kv_core::backend::Txn;
use kv_core::backend::call::Call;

use crate::batch::{SmallWrite, Writes};
use crate::transport::callers::Callers;

/// Applies a transaction. Writes of single keys share a transaction if they come faster than they can be sent one by
/// one.
///
/// A lone write is sent at once. If one of several writes that share a transaction has a failed check or is refused,
/// the others are sent again without it.
pub(crate) async fn commit(writes: &Writes, txn: Txn) -> Result<Option<u64>> {
    let shared = &writes.carrier().shared;
    let call = Call::current();
    call.not_sent();
    match SmallWrite::new(txn, &call) {
        Ok(write) => writes.submit(write).await,
        Err(txn) => shared.commit(&txn, &Callers::one(&call)).await,
    }
}
