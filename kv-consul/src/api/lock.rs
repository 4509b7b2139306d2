//! The entries of locks: where they are, and how they differ from data (clauses [L9](kv_core::contract::CLAUSES#L9) and
//! [L10](kv_core::contract::CLAUSES#L10)).

/// The flags of every entry that Consul's own lock creates or may take, in its Go client and in `consul lock`.
pub(crate) const LOCK_FLAGS: u64 = 0x2ddc_cbc0_58a5_0c18;

/// The last segment of an entry's key. No key of a user has such a segment ([clause K1](kv_core::contract::CLAUSES#K1)).
const SEGMENT: &str = ".lock";

/// The key of the entry of the lock on `name`, which is where `consul lock NAME` keeps it.
pub(crate) fn entry_of(name: &str) -> String {
    format!("{name}/{SEGMENT}")
}

/// Whether an entry belongs to a lock and is not data.
pub(crate) fn is_lock(key: &str, flags: u64) -> bool {
    flags == LOCK_FLAGS && may_be_lock(key)
}

/// Whether an entry with this key belongs to a lock if it has the flags of one.
pub(crate) fn may_be_lock(key: &str) -> bool {
    key.strip_suffix(SEGMENT).is_some_and(|name| name.is_empty() || name.ends_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_segment_and_the_flags_make_a_lock() {
        assert_eq!(entry_of("a/b"), "a/b/.lock");
        for key in [".lock", "/.lock", "a/.lock", "a/b/.lock"] {
            assert!(is_lock(key, LOCK_FLAGS) && !is_lock(key, 0), "{key}");
        }
        for key in ["", "lock", "a.lock", "a/.lock/", "a/.lock/b", "a/.lock1", ".lockx"] {
            assert!(!is_lock(key, LOCK_FLAGS), "{key}");
        }
    }
}
