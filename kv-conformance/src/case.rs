//! A case: what it proves, what it needs, how it runs, and how it says that a promise is broken.

use std::fmt;

use futures_util::future::BoxFuture;
use kv_core::Error;
use tokio::task::JoinSet;

use crate::context::Context;

/// One executable piece of the contract.
#[derive(Clone, Copy)]
pub struct Case {
    /// Its name, such as `keys::unicode`.
    pub name: &'static str,
    /// The clauses that it proves when it passes; the first is named when a call fails that should not.
    pub clauses: &'static [&'static str],
    /// What it does, in one sentence.
    pub sentence: &'static str,
    /// What the fixture must offer.
    pub needs: &'static [Need],
    /// Runs it.
    pub run: fn(Context) -> BoxFuture<'static, Outcome>,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case").field("name", &self.name).field("clauses", &self.clauses).finish_non_exhaustive()
    }
}

/// What a case needs and not every fixture has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// An address to connect through: [`Fixture::address`](crate::Fixture::address).
    Address,
    /// An address whose backend speaks to a server over the network.
    Server,
    /// An address and variables that complete it: [`Fixture::environment`](crate::Fixture::environment).
    Environment,
    /// Watches that deliver every change: [`WatchHistory::Every`](kv_core::WatchHistory::Every).
    EveryChange,
    /// Bounds on the size of values and on the operations of a transaction that can be reached within seconds.
    SmallLimits,
    /// A bound on the bytes of a transaction that can be reached within seconds.
    SmallTransactions,
    /// Means to hurt the store: [`Fixture::faults`](crate::Fixture::faults).
    Faults,
    /// Means to hurt one of at least three members, of which the others are a majority.
    Cluster,
    /// Leadership that can be moved: [`Faults::transfer_leader`](crate::Faults::transfer_leader).
    LeaderTransfer,
    /// Members that can be defragmented: [`Faults::defragment`](crate::Faults::defragment).
    Defragmentation,
    /// Members that can leave and return: [`Faults::leave_and_return`](crate::Faults::leave_and_return).
    Leaving,
    /// Members of which there is a later version: [`Faults::upgrade`](crate::Faults::upgrade).
    Upgrade,
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Address => "needs an address to connect through",
            Self::Server => "needs a backend that speaks to a server",
            Self::Environment => "needs environment variables that name the server",
            Self::EveryChange => "needs watches that deliver every change",
            Self::SmallLimits => "needs limits that can be reached within seconds",
            Self::SmallTransactions => "needs a limit on a transaction's bytes that can be reached within seconds",
            Self::Faults => "needs a fixture with faults",
            Self::Cluster => "needs a fixture with faults and three members",
            Self::LeaderTransfer => "needs a store whose leadership can be moved",
            Self::Defragmentation => "needs a store whose members can be defragmented",
            Self::Leaving => "needs a store whose members can leave and return",
            Self::Upgrade => "needs a fixture with later versions of the store",
        })
    }
}

/// How a case ends.
pub type Outcome<T = ()> = Result<T, Broke>;

/// A promise that was not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broke {
    /// The clause; none if a call failed that no clause in particular speaks of, and the case's first one is meant.
    pub clause: Option<&'static str>,
    /// What was expected, and what came instead.
    pub what: String,
}

impl Broke {
    /// Names the clause, and says what was expected and what came instead.
    pub fn new(clause: &'static str, what: impl Into<String>) -> Self {
        Self { clause: Some(clause), what: what.into() }
    }
}

impl From<Error> for Broke {
    fn from(error: Error) -> Self {
        Self { clause: None, what: format!("a call failed that should succeed: {error}") }
    }
}

/// Waits for all tasks and gives their results, or the failure of the first that fails; a panic is one.
pub(crate) async fn all_end<T: 'static>(tasks: &mut JoinSet<Outcome<T>>) -> Outcome<Vec<T>> {
    let mut results = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        results.push(ended.unwrap_or_else(|panic| Err(Broke { clause: None, what: panic.to_string() }))?);
    }
    Ok(results)
}

/// Requires that a call succeeds, in the name of a clause.
pub(crate) trait Keeps<T> {
    /// The result, or that the clause is broken.
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
            return Err($crate::case::Broke::new($clause, format!($($what)+)));
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
                return Err($crate::case::Broke::new($clause, format!("expected {expected}, saw {seen}")));
            }
        }
    };
}

/// The cases of one file: name, clauses, needs where there are any, and the sentence.
macro_rules! cases {
    ($module:literal: $($name:ident [$($clause:literal),+] $(needs [$($need:ident),+])? $sentence:literal)+) => {
        pub(crate) const CASES: &[$crate::case::Case] = &[$($crate::case::Case {
            name: concat!($module, "::", stringify!($name)),
            clauses: &[$($clause),+],
            sentence: $sentence,
            needs: &[$($($crate::case::Need::$need),+)?],
            run: |context| Box::pin($name(context)),
        }),+];
    };
}
pub(crate) use {cases, check, refused, same};
