//! Which keys are entries of locks ([clause L10](kv_core::contract::CLAUSES#L10)).
//!
//! A contender for the lock `NAME` has the key `NAME/<lease id>`, in lower-case hexadecimal without padding. The key is
//! attached to the lease in its name. This is the layout of etcd's own clients. A key with such a name and without that
//! lease is data.

/// The key of a contender for the lock `name`.
pub(crate) fn contender(name: &str, lease: i64) -> String {
    format!("{name}/{lease:x}")
}

/// The prefix of the keys of all contenders for the lock `name`.
pub(crate) fn contenders(name: &str) -> String {
    format!("{name}/")
}

/// The lease in the last segment of a key, if the segment is a lease id as contenders write it.
///
/// The key is an entry of a lock only if it is attached to that lease. Most keys have no such segment, so their leases
/// need not be read.
pub(crate) fn named_lease(key: &[u8]) -> Option<i64> {
    let slash = key.iter().rposition(|byte| *byte == b'/')?;
    let digits = &key[slash + 1..];
    let canonical = digits.first().is_some_and(|first| *first != b'0')
        && digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    if !canonical {
        return None;
    }
    i64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Whether a key with this lease (0: none) is an entry of a lock.
pub(crate) fn is_lock_entry(key: &[u8], lease: i64) -> bool {
    lease != 0 && named_lease(key) == Some(lease)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_lease_in_the_name_makes_an_entry() {
        let key = contender("dir/job", 0x694d_a207_e363_5927);
        assert_eq!(key, "dir/job/694da207e3635927");
        assert!(key.starts_with(&contenders("dir/job")));
        assert!(is_lock_entry(key.as_bytes(), 0x694d_a207_e363_5927));
        assert!(!is_lock_entry(key.as_bytes(), 0x694d_a207_e363_5928));
        assert!(!is_lock_entry(key.as_bytes(), 0));
        assert!(is_lock_entry(b"a/1f", 0x1f));
    }

    #[test]
    fn a_name_that_is_no_lease_id_is_data() {
        for key in ["a", "1f", "a/", "a/1F", "a/01f", "a/0", "a/1g", "a/-1", "a/+1", "a/1/x", "a/ffffffffffffffff"] {
            assert_eq!(named_lease(key.as_bytes()), None, "{key:?}");
        }
        assert_eq!(named_lease(b"a/7fffffffffffffff"), Some(i64::MAX));
        assert_eq!(named_lease(b"a/1/b1"), Some(0xb1));
        assert_eq!(named_lease(b"\xff/b1"), Some(0xb1));
    }
}
