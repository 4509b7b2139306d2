//! The table of clauses by stores, which CONTRACT.md shows: how many cases proved each clause on each store.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use kv_core::contract::CLAUSES;

use crate::case::Case;
use crate::cases::CASES;
use crate::suite::{Suite, Verdict};

/// The results of the cases on one store: a column of the table.
#[derive(Debug)]
pub struct Column {
    /// The store's name.
    pub name: String,
    results: Vec<(&'static Case, Verdict)>,
}

impl Column {
    /// Creates an empty column for a suite.
    pub fn new(suite: &Suite) -> Self {
        Self { name: suite.name(), results: Vec::new() }
    }

    /// Adds the result of a case.
    pub fn enter(&mut self, case: &'static Case, verdict: Verdict) {
        self.results.push((case, verdict));
    }

    /// Iterates over the cases that failed.
    pub fn failures(&self) -> impl Iterator<Item = (&'static Case, &crate::Report)> {
        self.results.iter().filter_map(|(case, verdict)| match verdict {
            Verdict::Failed(report) => Some((*case, report)),
            Verdict::Passed(_) | Verdict::NotRun(_) => None,
        })
    }

    fn cell(&self, clause: &str) -> Cell {
        if self.failures().any(|(_, report)| report.clause == clause) {
            return Cell::Broken;
        }
        let claiming = || self.results.iter().filter(|(case, _)| case.clauses.contains(&clause));
        let proved = claiming().filter(|(_, verdict)| matches!(verdict, Verdict::Passed(_))).count();
        if proved > 0 {
            return Cell::Proved(proved);
        }
        let needs = claiming().find_map(|(_, verdict)| match verdict {
            Verdict::NotRun(need) => Some(need.to_string()),
            Verdict::Passed(_) | Verdict::Failed(_) => None,
        });
        let reason = || {
            if claiming().next().is_some() {
                "its cases failed before they reached it"
            } else if CASES.iter().any(|case| case.clauses.contains(&clause)) {
                "this run has no case for it"
            } else {
                "shown by the backend's own tests, with the store's own tools"
            }
        };
        Cell::NotProved(needs.unwrap_or_else(|| reason().to_owned()))
    }
}

enum Cell {
    Proved(usize),
    Broken,
    NotProved(String),
}

/// The clauses by stores, displayed as Markdown.
///
/// A cell holds the number of cases that proved the clause, **broken**, or `-` with a footnote that says why no case
/// proved it.
#[derive(Debug)]
pub struct Table<'a>(pub &'a [Column]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut notes: BTreeMap<String, usize> = BTreeMap::new();
        let mut rows = String::new();
        for clause in CLAUSES {
            write!(rows, "| **{}** {} |", clause.id, clause.sentence)?;
            for column in self.0 {
                match column.cell(clause.id) {
                    Cell::Proved(cases) => write!(rows, " {cases} |")?,
                    Cell::Broken => write!(rows, " **broken** |")?,
                    Cell::NotProved(reason) => {
                        let next = notes.len() + 1;
                        write!(rows, " - [{}] |", notes.entry(reason).or_insert(next))?;
                    }
                }
            }
            rows.push('\n');
        }
        write!(f, "| clause |")?;
        for column in self.0 {
            write!(f, " {} |", column.name)?;
        }
        writeln!(f, "\n|---|{}", "--:|".repeat(self.0.len()))?;
        write!(f, "{rows}\nA number is how many cases proved the clause.")?;
        let mut notes: Vec<_> = notes.into_iter().collect();
        notes.sort_by_key(|(_, number)| *number);
        for (reason, number) in notes {
            write!(f, " [{number}]: {reason}.")?;
        }
        writeln!(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::need::Need;

    fn column(name: &str, verdict: impl Fn(&Case) -> Verdict) -> Column {
        Column { name: name.into(), results: CASES.iter().map(|case| (case, verdict(case))).collect() }
    }

    #[test]
    fn the_table_counts_proofs_and_says_why_there_are_none() {
        let all = column("whole", |_| Verdict::Passed(None));
        let local = column("local", |case| match case.needs.first() {
            Some(need) => Verdict::NotRun(*need),
            None => Verdict::Passed(None),
        });
        let table = Table(&[all, local]).to_string();
        assert!(table.starts_with("| clause | whole | local |\n|---|--:|--:|\n"), "{table}");
        let row = |id: &str| table.lines().find(|line| line.contains(&format!("**{id}**"))).unwrap_or_default();
        let proofs = CASES.iter().filter(|case| case.clauses.contains(&"R3")).count();
        assert!(row("R3").ends_with(&format!("| {proofs} | {proofs} |")), "{}", row("R3"));
        assert!(row("A2").contains("| 1 | - ["), "{}", row("A2"));
        assert!(table.contains(&Need::Environment.to_string()), "{table}");
        assert!(row("L9").contains("- ["), "{}", row("L9"));
        assert_eq!(table.lines().filter(|line| line.starts_with("| **")).count(), CLAUSES.len());
    }
}
