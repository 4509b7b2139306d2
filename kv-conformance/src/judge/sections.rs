//! Critical sections: what the holders of a lock wrote under its guard.

use serde::{Deserialize, Serialize};

use super::Judgement;
use crate::outcome::Broke;

/// One critical section: the holder read a counter and wrote it incremented.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Section {
    /// The client that held the lock.
    pub client: usize,
    /// The fencing token.
    pub token: u64,
    /// The counter's new value, written with the lock's guard.
    pub count: u64,
    /// The outcome of that write.
    pub write: Write,
}

/// The outcome of a guarded write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Write {
    /// It was applied, at this index.
    Applied(u64),
    /// The store refused it: the lock had passed on.
    Refused,
    /// It may have been applied.
    Unknown,
}

/// Judges the critical sections of one lock, whose counter began at 0 and was `last` in the end.
///
/// In the order of their indices, the guarded writes have increasing tokens and counts. A holder whose lock has passed
/// on cannot write, so no increment is lost. Only writes of unknown fate may be missing.
///
/// # Errors
/// [`Broke`] with [L5](kv_core::contract::CLAUSES#L5).
pub fn judge_sections(sections: &[Section], last: u64) -> Judgement {
    let mut applied: Vec<(u64, &Section)> = sections
        .iter()
        .filter_map(|section| match section.write {
            Write::Applied(index) => Some((index, section)),
            Write::Refused | Write::Unknown => None,
        })
        .collect();
    applied.sort_by_key(|(index, _)| *index);
    for pair in applied.windows(2) {
        let [(_, first), (_, second)] = pair else { continue };
        if second.token <= first.token || second.count <= first.count {
            let what =
                format!("the later of two guarded writes has no greater token and count:\n{first:?}\n{second:?}");
            return Err(Broke::new("L5", what));
        }
    }
    let count = |wanted: fn(&Write) -> bool| sections.iter().filter(|section| wanted(&section.write)).count() as u64;
    let known = count(|write| matches!(write, Write::Applied(_)));
    let unknown = count(|write| matches!(write, Write::Unknown));
    if last < known || last > known + unknown {
        let what = format!("the counter is {last} after {known} guarded increments and {unknown} of unknown fate");
        return Err(Broke::new("L5", what));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(token: u64, count: u64, write: Write) -> Section {
        Section { client: 0, token, count, write }
    }

    #[test]
    fn sections_in_the_order_of_tokens_are_right() {
        let sections = [
            section(5, 1, Write::Applied(6)),
            section(9, 3, Write::Applied(12)),
            section(7, 2, Write::Unknown),
            section(5, 2, Write::Refused),
        ];
        assert_eq!(judge_sections(&sections, 3), Ok(()));
        assert_eq!(judge_sections(&sections, 2), Ok(()), "the unknown one was not applied");
    }

    #[test]
    fn a_write_after_the_lock_had_passed_on_is_found() {
        let late = [section(5, 1, Write::Applied(14)), section(9, 2, Write::Applied(12))];
        assert!(judge_sections(&late, 2).is_err());
        let lost = [section(5, 1, Write::Applied(6)), section(9, 1, Write::Applied(12))];
        assert!(judge_sections(&lost, 1).is_err(), "an increment was lost");
    }

    #[test]
    fn a_counter_that_is_too_high_or_low_is_found() {
        let sections = [section(5, 1, Write::Applied(6)), section(9, 2, Write::Applied(12))];
        assert!(judge_sections(&sections, 1).is_err());
        assert!(judge_sections(&sections, 3).is_err());
    }
}
