//! A case: what it proves, what it needs, and how it runs.

use std::fmt;

use futures_util::future::BoxFuture;

use crate::context::Context;
use crate::outcome::Outcome;

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
        })
    }
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
pub(crate) use cases;
