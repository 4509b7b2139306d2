//! The commands to a proxy, and its counts.

use std::time::Duration;

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// A reset (RST) to both ends, as from a killed process or a firewall.
    Reset,
    /// A close (FIN) to both ends, as from a process that exits.
    Close,
}

/// Random faults, drawn for each connection separately.
///
/// Six faults in ten end the connection, half of these in the middle of a piece of data. Of the other four, two stall
/// the connection and two delay a piece.
#[derive(Debug, Clone, Copy)]
pub struct RandomFaults {
    /// The same seed injects a fault into the n-th connection after the same number of bytes. Times are not repeated
    /// exactly.
    pub seed: u64,
    /// The most bytes that a direction of a connection carries between two faults; at least 1.
    pub bytes: u32,
    /// The longest that a connection lives, even if it carries nothing.
    pub age: Duration,
    /// The longest stall or delay.
    pub pause: Duration,
}

impl RandomFaults {
    /// Several faults a second for a client that writes small values one after the other.
    pub fn seeded(seed: u64) -> Self {
        Self { seed, bytes: 4 << 10, age: Duration::from_secs(2), pause: Duration::from_millis(100) }
    }
}

/// What a proxy has counted so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections that clients made, whether or not the server was reachable.
    pub connections: usize,
    /// Connections that are open now.
    pub open: usize,
    /// The largest number of connections that were open at one time.
    pub most_open: usize,
    /// Connections [reset](Cut::Reset) between two pieces of data.
    pub resets: usize,
    /// Connections [closed](Cut::Close) between two pieces of data.
    pub closes: usize,
    /// Connections ended in the middle of a piece, whose first part was forwarded.
    pub truncations: usize,
    /// Stalls of a connection, in both directions, that ended.
    pub stalls: usize,
    /// Pieces of data that were forwarded late.
    pub delays: usize,
}

impl Counts {
    /// Returns how many connections the proxy ended, in any way.
    pub fn cuts(&self) -> usize {
        self.resets + self.closes + self.truncations
    }
}

/// The commands in force for every connection.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Orders {
    pub(super) faults: Option<RandomFaults>,
    pub(super) stalled: bool,
    pub(super) refusing: bool,
    /// How many commands to cut were given, and the last one.
    pub(super) cuts: usize,
    pub(super) cut: Option<Cut>,
}
