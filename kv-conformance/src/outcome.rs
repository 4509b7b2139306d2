//! How a case ends, and how it reports a broken clause.

use std::io;

use kv_core::Error;
use tokio::task::JoinSet;

/// The result of a case.
pub type Outcome<T = ()> = Result<T, Broke>;

/// A broken clause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broke {
    /// The clause; `None` if a call failed that no clause in particular covers. The case's first clause is reported
    /// then.
    pub clause: Option<&'static str>,
    /// What was expected and what was observed.
    pub what: String,
}

impl Broke {
    /// A broken clause, with what was expected and what was observed.
    pub fn new(clause: &'static str, what: impl Into<String>) -> Self {
        Self { clause: Some(clause), what: what.into() }
    }
}

impl From<Error> for Broke {
    fn from(error: Error) -> Self {
        Self { clause: None, what: format!("a call failed that should succeed: {error}") }
    }
}

/// A failure of a relay that the suite puts between clients and a server.
impl From<io::Error> for Broke {
    fn from(error: io::Error) -> Self {
        Self { clause: None, what: format!("there is no relay: {error}") }
    }
}

/// Waits for all tasks and returns their results, or the first failure. A panic is a failure.
pub(crate) async fn all_end<T: 'static>(tasks: &mut JoinSet<Outcome<T>>) -> Outcome<Vec<T>> {
    let mut results = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        results.push(ended.unwrap_or_else(|panic| Err(Broke { clause: None, what: panic.to_string() }))?);
    }
    Ok(results)
}

/// Attributes the failure of a call to a clause.
pub(crate) trait Keeps<T> {
    /// Returns the value, or that the clause is broken.
    fn keeps(self, clause: &'static str) -> Outcome<T>;
}

impl<T> Keeps<T> for kv_core::Result<T> {
    fn keeps(self, clause: &'static str) -> Outcome<T> {
        self.map_err(|error| Broke { clause: Some(clause), ..error.into() })
    }
}

/// `check!(clause, condition, what…)`: the clause is broken unless the condition holds.
macro_rules! check {
    ($clause:expr, $condition:expr, $($what:tt)+) => {
        if !$condition {
            return Err($crate::outcome::Broke::new($clause, format!($($what)+)));
        }
    };
}

/// `same!(clause, seen, expected, what…)`: the clause is broken unless both are equal.
macro_rules! same {
    ($clause:expr, $seen:expr, $expected:expr, $($what:tt)+) => {
        match (&$seen, &$expected) {
            (seen, expected) => check!(
                $clause,
                *seen == *expected,
                "{}: expected {}, saw {}",
                format_args!($($what)+),
                $crate::log::shortened(format_args!("{expected:?}")),
                $crate::log::shortened(format_args!("{seen:?}"))
            ),
        }
    };
}

/// `refused!(clause, result, pattern)`: the clause is broken unless the call failed with an error of this pattern.
macro_rules! refused {
    ($clause:expr, $result:expr, $pattern:pat $(if $guard:expr)?) => {
        match &$result {
            Err($pattern) $(if $guard)? => {}
            result => {
                let expected = stringify!($pattern $(if $guard)?);
                let seen = $crate::log::shortened(format_args!("{result:?}"));
                return Err($crate::outcome::Broke::new($clause, format!("expected {expected}, saw {seen}")));
            }
        }
    };
}
pub(crate) use {check, refused, same};
