//! A case: what it proves, what it needs, and how it runs.

use std::fmt;

use futures_util::future::BoxFuture;

use crate::context::Context;
use crate::need::Need;
use crate::outcome::Outcome;

/// One executable piece of the contract.
#[derive(Clone, Copy)]
pub struct Case {
    /// The case's name, such as `keys::unicode`.
    pub name: &'static str,
    /// The clauses that the case proves when it passes. The first is reported when an unrelated call fails.
    pub clauses: &'static [&'static str],
    /// One sentence that describes the case.
    pub sentence: &'static str,
    /// What the fixture must provide.
    pub needs: &'static [Need],
    /// Runs the case.
    pub run: fn(Context) -> BoxFuture<'static, Outcome>,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case").field("name", &self.name).field("clauses", &self.clauses).finish_non_exhaustive()
    }
}

/// The cases of one file: name, clauses, optional needs, and the sentence.
macro_rules! cases {
    ($module:literal: $($name:ident [$($clause:literal),+] $(needs [$($need:ident),+])? $sentence:literal)+) => {
        pub(crate) const CASES: &[$crate::case::Case] = &[$($crate::case::Case {
            name: concat!($module, "::", stringify!($name)),
            clauses: &[$($clause),+],
            sentence: $sentence,
            needs: &[$($($crate::need::Need::$need),+)?],
            run: |context| Box::pin($name(context)),
        }),+];
    };
}
pub(crate) use cases;
