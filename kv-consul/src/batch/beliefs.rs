//! What this process last saw of keys, to choose how they are read next.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

/// How many keys are remembered.
const SLOTS: u64 = 4096;

/// What is unusual about a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Belief {
    /// It exists, with a small value. This is also believed of keys of which nothing is known.
    Usual,
    /// It did not exist.
    Absent,
    /// Its value was large.
    Large,
}

/// The keys that were absent or large the last time.
///
/// The memory is fixed, and a key may be forgotten for another. A wrong belief costs time, and nothing else.
pub(super) struct Beliefs {
    hasher: RandomState,
    /// By a part of the key's hash: the hash, and the belief in its lowest two bits; 0 if nothing is unusual.
    slots: Box<[AtomicU64]>,
}

impl Default for Beliefs {
    fn default() -> Self {
        Self { hasher: RandomState::new(), slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect() }
    }
}

impl Beliefs {
    pub(super) fn of(&self, key: &str) -> Belief {
        let (slot, tag) = self.place(key);
        let found = slot.load(Ordering::Relaxed);
        match (found & !3 == tag, found & 3) {
            (true, 1) => Belief::Absent,
            (true, 2) => Belief::Large,
            _ => Belief::Usual,
        }
    }

    pub(super) fn note(&self, key: &str, belief: Belief) {
        let (slot, tag) = self.place(key);
        let found = slot.load(Ordering::Relaxed);
        let new = match belief {
            Belief::Usual if found & !3 != tag => return,
            Belief::Usual => 0,
            Belief::Absent => tag | 1,
            Belief::Large => tag | 2,
        };
        if new != found {
            slot.store(new, Ordering::Relaxed);
        }
    }

    fn place(&self, key: &str) -> (&AtomicU64, u64) {
        let hash = self.hasher.hash_one(key);
        let slot = usize::try_from(hash >> 2 & (SLOTS - 1)).unwrap_or_default();
        (&self.slots[slot], hash & !3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unusual_is_remembered_until_it_changes() {
        let beliefs = Beliefs::default();
        assert_eq!(beliefs.of("a"), Belief::Usual);
        for belief in [Belief::Absent, Belief::Large, Belief::Usual] {
            beliefs.note("a", belief);
            assert_eq!(beliefs.of("a"), belief);
        }
        beliefs.note("a", Belief::Absent);
        beliefs.note("b", Belief::Usual);
        assert_eq!((beliefs.of("a"), beliefs.of("b")), (Belief::Absent, Belief::Usual));
    }
}
