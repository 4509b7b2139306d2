//! Which keys had large values when this process last read or wrote them.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU32, Ordering};

/// The keys whose values were large the last time, or the first keys of pages that were.
///
/// The memory is fixed, so a key may displace another. Then a large value delays the batch that it travels in.
pub(crate) struct LargeKeys {
    hasher: RandomState,
    /// One part of a key's hash is the slot, another part is the tag in it; 0 is an empty slot.
    tags: Box<[AtomicU32]>,
}

impl Default for LargeKeys {
    fn default() -> Self {
        const SLOTS: usize = 1024;
        Self { hasher: RandomState::new(), tags: std::iter::repeat_with(AtomicU32::default).take(SLOTS).collect() }
    }
}

impl LargeKeys {
    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        let (slot, tag) = self.place(key);
        slot.load(Ordering::Relaxed) == tag
    }

    pub(crate) fn note(&self, key: &[u8], is_large: bool) {
        let (slot, tag) = self.place(key);
        if is_large {
            slot.store(tag, Ordering::Relaxed);
        } else {
            let _ = slot.compare_exchange(tag, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    fn place(&self, key: &[u8]) -> (&AtomicU32, u32) {
        let hash = self.hasher.hash_one(key);
        let slot = usize::try_from(hash % self.tags.len() as u64).unwrap_or_default();
        (&self.tags[slot], u32::try_from(hash >> 32).unwrap_or_default() | 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_keys_are_remembered_until_they_are_small() {
        let large = LargeKeys::default();
        assert!(!large.contains(b"a"));
        large.note(b"a", true);
        assert!(large.contains(b"a") && !large.contains(b"b"));
        large.note(b"b", false);
        large.note(b"a", false);
        assert!(!large.contains(b"a"));
    }
}
