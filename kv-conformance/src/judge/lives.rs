//! Lives of ephemeral keys: until when each was renewed, and when an observer saw it vanish.

use serde::{Deserialize, Serialize};

use super::Judgement;
use crate::outcome::Broke;

/// One registration of a key, from its creation to its end. Times are milliseconds from the beginning of the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    /// The key.
    pub key: String,
    /// Its data, which distinguishes it from other registrations of the same key.
    pub data: String,
    /// The end of the last successful renewal's time to live, counted from when that renewal began.
    pub kept_until: u64,
    /// How it ended.
    pub end: End,
}

/// How a registration ended, from its holder's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// The holder began to remove it at this time.
    Destroyed(u64),
    /// The holder stopped renewing, as after a crash.
    Killed,
    /// The holder learned at this time that the key is lost.
    Lost(u64),
}

/// A deletion that an observer saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vanishing {
    /// The key.
    pub key: String,
    /// Its last data.
    pub data: String,
    /// When the observer saw the deletion.
    pub seen: u64,
}

/// Judges registrations: none vanishes or is reported lost before its time to live lapses, unless its holder removes
/// it.
///
/// The workload itself checks that every key vanishes after its holder stops renewing.
///
/// # Errors
/// [`Broke`] with [L1](kv_core::contract::CLAUSES#L1) for a key that vanished, [L2](kv_core::contract::CLAUSES#L2) for
/// a key that was reported lost to its holder.
pub fn judge_lives(lives: &[Life], vanishings: &[Vanishing]) -> Judgement {
    for life in lives {
        if let End::Lost(at) = life.end
            && at < life.kept_until
        {
            return Err(Broke::new("L2", format!("lost, though renewed in time: {life:?}")));
        }
        let vanishing = vanishings.iter().find(|one| one.key == life.key && one.data == life.data);
        let Some(vanishing) = vanishing else { continue };
        let earliest = match life.end {
            End::Destroyed(at) => at.min(life.kept_until),
            End::Killed | End::Lost(_) => life.kept_until,
        };
        if vanishing.seen < earliest {
            return Err(Broke::new("L1", format!("{vanishing:?}, before its time: {life:?}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(end: End, seen: u64) -> Option<&'static str> {
        let life = Life { key: "k".into(), data: "1".into(), kept_until: 5000, end };
        let vanishing = Vanishing { key: "k".into(), data: "1".into(), seen };
        let other = Vanishing { data: "0".into(), seen: 1, ..vanishing.clone() };
        judge_lives(&[life], &[other, vanishing]).err().and_then(|broke| broke.clause)
    }

    #[test]
    fn what_lapsed_or_was_removed_is_right() {
        assert_eq!(broken(End::Killed, 5000), None);
        assert_eq!(broken(End::Lost(5200), 5100), None);
        assert_eq!(broken(End::Destroyed(3000), 3001), None);
    }

    #[test]
    fn a_key_that_vanished_early_is_found() {
        assert_eq!(broken(End::Killed, 4999), Some("L1"));
        assert_eq!(broken(End::Destroyed(3000), 2999), Some("L1"));
        assert_eq!(broken(End::Lost(4000), 6000), Some("L2"));
    }
}
