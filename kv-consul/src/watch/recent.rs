//! Recent listings, from which a watch can continue.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use crate::api::state::State;

/// The most listings that are remembered.
const LISTINGS: usize = 64;

/// The most entries in all of them together.
const ENTRIES: usize = 50_000;

/// The states of recent listings.
///
/// Consul reports that something under a prefix was deleted after an index, but not what. For an empty prefix, it does
/// not even report whether something was deleted. If the listing with that index is still known, a comparison shows it.
#[derive(Default)]
pub(crate) struct Recent {
    listings: Mutex<VecDeque<Remembered>>,
}

struct Remembered {
    prefix: String,
    index: u64,
    state: Arc<State>,
}

impl Recent {
    /// Stores the state of a prefix at an index, and forgets the oldest states if there are too many.
    pub(crate) fn remember(&self, prefix: &str, index: u64, state: Arc<State>) {
        let mut listings = self.listings.lock().unwrap_or_else(PoisonError::into_inner);
        listings.retain(|one| one.prefix != prefix || one.index != index);
        listings.push_back(Remembered { prefix: prefix.to_owned(), index, state });
        let mut entries: usize = listings.iter().map(|one| one.state.len()).sum();
        while listings.len() > LISTINGS || entries > ENTRIES {
            let Some(oldest) = listings.pop_front() else { break };
            entries -= oldest.state.len();
        }
    }

    /// The remembered state of a prefix, or of one that contains it, at an index.
    pub(crate) fn recall(&self, prefix: &str, index: u64) -> Option<Arc<State>> {
        let listings = self.listings.lock().unwrap_or_else(PoisonError::into_inner);
        // The latest state counts, because after a restore an index may occur again.
        let mut found = listings.iter().rev().filter(|one| prefix.starts_with(&one.prefix) && one.index == index);
        found.next().map(|one| one.state.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(rows: usize) -> Arc<State> {
        let mut state = State::default();
        for row in 0..rows {
            state.push(&format!("{row:06}"), 1, 1);
        }
        Arc::new(state)
    }

    #[test]
    fn the_latest_listings_are_remembered() {
        let recent = Recent::default();
        recent.remember("a", 1, state(1));
        recent.remember("a", 2, state(2));
        recent.remember("b", 1, state(3));
        recent.remember("a", 1, state(4));
        let rows = |prefix, index| recent.recall(prefix, index).map(|state| state.len());
        assert_eq!((rows("a", 1), rows("a", 2), rows("b", 1)), (Some(4), Some(2), Some(3)));
        assert_eq!((rows("a", 3), rows("c", 1)), (None, None));
        assert_eq!(rows("ab", 2), Some(2), "a listing has everything below its prefix");
    }

    #[test]
    fn the_oldest_listings_are_forgotten() {
        let recent = Recent::default();
        for index in 0..=LISTINGS as u64 {
            recent.remember("a", index, state(1));
        }
        assert!(recent.recall("a", 0).is_none() && recent.recall("a", 1).is_some());
        recent.remember("b", 1, state(ENTRIES - 1));
        assert!(recent.recall("b", 1).is_some() && recent.recall("a", LISTINGS as u64).is_some());
        recent.remember("b", 2, state(ENTRIES + 1));
        assert!(recent.recall("b", 2).is_none() && recent.recall("b", 1).is_none());
    }
}
