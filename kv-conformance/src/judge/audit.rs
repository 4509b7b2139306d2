//! Transfers between accounts: the total is the same in every snapshot.

use serde::{Deserialize, Serialize};

use super::Judgement;
use crate::outcome::Broke;

/// One listing of all accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// The index of the listing.
    pub index: u64,
    /// The number of accounts in the listing.
    pub accounts: usize,
    /// The sum of their balances.
    pub total: i64,
}

/// Judges audits of a fixed set of accounts among which money is only transferred.
///
/// # Errors
/// [`Broke`] with [R2](kv_core::contract::CLAUSES#R2) for a listing with another total: it is a mixture of states, or a
/// transaction was applied in part.
pub fn judge_audits(audits: &[Audit], accounts: usize, total: i64) -> Judgement {
    match audits.iter().find(|audit| (audit.accounts, audit.total) != (accounts, total)) {
        Some(audit) => Err(Broke::new("R2", format!("of {total} on {accounts} accounts this was seen: {audit:?}"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_account_or_sum_is_found() {
        let good = Audit { index: 7, accounts: 3, total: 300 };
        assert_eq!(judge_audits(&[good, Audit { index: 9, ..good }], 3, 300), Ok(()));
        assert!(judge_audits(&[good, Audit { total: 299, ..good }], 3, 300).is_err());
        assert!(judge_audits(&[good, Audit { accounts: 2, ..good }], 3, 300).is_err());
    }
}
