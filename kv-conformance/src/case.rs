//! A case: what it proves, what it needs, and how it runs.

use std::fmt;

use futures_util::future::BoxFuture;

use crate::context::Context;
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

/// A requirement that not every fixture meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// An address to connect through: [`Fixture::address`](crate::Fixture::address).
    Address,
    /// An address whose backend speaks to a server over the network.
    Server,
    /// An address, and environment variables that complete it: [`Fixture::environment`](crate::Fixture::environment).
    Environment,
    /// Watches that deliver every change: [`WatchHistory::Every`](kv_core::WatchHistory::Every).
    EveryChange,
    /// Limits on the size of values and the operations of a transaction that a case can reach within seconds.
    SmallLimits,
    /// A limit on the bytes of a transaction that a case can reach within seconds.
    SmallTransactions,
    /// To run alone, because it takes more of the store than others can spare.
    Alone,
    /// Fault injection: [`Fixture::faults`](crate::Fixture::faults).
    Faults,
    /// Fault injection into one of at least three members, so that the others are a majority.
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
            Self::Alone => "needs to run alone",
            Self::Faults => "needs a fixture with faults",
            Self::Cluster => "needs a fixture with faults and three members",
            Self::LeaderTransfer => "needs a store whose leadership can be moved",
            Self::Defragmentation => "needs a store whose members can be defragmented",
            Self::Leaving => "needs a store whose members can leave and return",
            Self::Upgrade => "needs a fixture with later versions of the store",
        })
    }
}

/// The cases of one file: name, clauses, optional needs, and the sentence.
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
