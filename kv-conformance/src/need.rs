//! What a case needs of a fixture.

use std::fmt;

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
    /// History that can be replaced: [`Faults::replace_history`](crate::Faults::replace_history).
    ReplacedHistory,
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
            Self::ReplacedHistory => "needs a store whose history can be replaced",
            Self::Upgrade => "needs a fixture with later versions of the store",
        })
    }
}
