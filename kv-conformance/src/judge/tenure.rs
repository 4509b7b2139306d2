//! Tenures of locks: which client held a lock, from when to when, and with which token.

use std::fmt;

use super::Judgement;
use crate::outcome::Broke;

/// One tenure of a lock, in moments of a [`History`](super::History).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tenure {
    /// The client that held the lock.
    pub client: usize,
    /// The fencing token.
    pub token: u64,
    /// When the lock had been granted.
    pub given: u64,
    /// When the holder began to release it.
    pub returned: u64,
}

impl fmt::Display for Tenure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, token, given, returned } = self;
        write!(f, "[{given}..{returned}] client {client} with token {token}")
    }
}

/// Judges the tenures of one lock: none overlap, and each has a larger token than the one before.
///
/// # Errors
/// [`Broke`] with [L4](kv_core::contract::CLAUSES#L4) for two holders at a time, [L5](kv_core::contract::CLAUSES#L5)
/// for a token that does not grow.
pub fn judge_tenures(tenures: &[Tenure]) -> Judgement {
    let mut in_order = tenures.to_vec();
    in_order.sort_by_key(|tenure| tenure.given);
    for pair in in_order.windows(2) {
        let [first, second] = pair else { continue };
        if second.given < first.returned {
            return Err(Broke::new("L4", format!("two held the lock at a time:\n{first}\n{second}")));
        }
        if second.token <= first.token {
            return Err(Broke::new("L5", format!("the token of the later holder is not greater:\n{first}\n{second}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenure(given: u64, returned: u64, token: u64) -> Tenure {
        Tenure { client: 0, token, given, returned }
    }

    fn broken(tenures: &[Tenure]) -> Option<&'static str> {
        judge_tenures(tenures).err().and_then(|broke| broke.clause)
    }

    #[test]
    fn one_after_another_is_right() {
        assert_eq!(broken(&[tenure(5, 6, 9), tenure(1, 2, 3), tenure(7, 9, 10)]), None);
        assert_eq!(broken(&[]), None);
    }

    #[test]
    fn two_holders_at_a_time_are_found() {
        assert_eq!(broken(&[tenure(1, 5, 3), tenure(4, 6, 4)]), Some("L4"));
        assert_eq!(broken(&[tenure(1, 9, 3), tenure(4, 6, 4)]), Some("L4"));
    }

    #[test]
    fn tokens_that_do_not_grow_are_found() {
        assert_eq!(broken(&[tenure(1, 2, 3), tenure(4, 6, 3)]), Some("L5"));
        assert_eq!(broken(&[tenure(1, 2, 3), tenure(4, 6, 2)]), Some("L5"));
    }
}
