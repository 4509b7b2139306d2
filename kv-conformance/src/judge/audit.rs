//! Money that is moved between accounts: whoever looks, it is all there.

use serde::{Deserialize, Serialize};

use super::Judgement;
use crate::outcome::Broke;

/// One look at all accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// The point in history that was seen.
    pub index: u64,
    /// How many accounts there were.
    pub accounts: usize,
    /// What was on them together.
    pub total: i64,
}

/// Judges the audits of accounts that are never opened, closed, or paid into.
///
/// # Errors
/// [`Broke`] with R2: no transfer is seen by halves, so that one of another sum is a mixture of states, or a
/// transfer was applied by halves.
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
