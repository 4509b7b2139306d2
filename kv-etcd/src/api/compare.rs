//! The comparisons of a transaction. The store evaluates them.

use bytes::Bytes;

use crate::api::messages::{Compare, CompareTarget, Operand};
use crate::api::range::{Range, signed};

/// A comparison of one key.
pub(crate) fn equal(target: CompareTarget, key: Bytes, operand: Operand) -> Compare {
    Compare { target: target.into(), key, operand: Some(operand), range_end: Bytes::new() }
}

/// Comparisons that hold if the key was created at revision `token` and is still attached to the lease.
///
/// The create revision alone is not enough: a plain write by another client keeps it, and detaches the lease.
pub(crate) fn owned_by(key: &Bytes, token: u64, lease: i64) -> Vec<Compare> {
    vec![
        equal(CompareTarget::Create, key.clone(), Operand::CreateRevision(signed(token))),
        equal(CompareTarget::Lease, key.clone(), Operand::Lease(lease)),
    ]
}

/// A comparison that holds if the range has no key: the create revision of a key that does not exist is 0.
pub(crate) fn absent(range: Range) -> Compare {
    Compare { range_end: range.end, ..equal(CompareTarget::Create, range.key, Operand::CreateRevision(0)) }
}

/// A comparison that holds if no key of the range has a lease.
pub(crate) fn unleased(range: Range) -> Compare {
    Compare { range_end: range.end, ..equal(CompareTarget::Lease, range.key, Operand::Lease(0)) }
}
