//! What a proxy is told to do, and what it has done.

use std::time::Duration;

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// As when a process is killed or a firewall steps in: both ends find it reset.
    Reset,
    /// As when a process ends properly: both ends find that the other has closed it.
    Close,
}

/// What happens to connections without a command; each goes through it by itself.
///
/// Six faults in ten end the connection, half of these in the middle of a piece that is being sent. Of the others half
/// stall it, and half delay a piece.
#[derive(Debug, Clone, Copy)]
pub struct RandomFaults {
    /// The same seed hurts the n-th connection after the same bytes. Moments are not repeated as exactly.
    pub seed: u64,
    /// Each direction of a connection is hurt before it has carried this many bytes, not 0, since the last time.
    pub bytes: u32,
    /// A connection is cut once it is this old, at the latest, also if it carries nothing.
    pub age: Duration,
    /// The longest that a stall or a delay lasts.
    pub pause: Duration,
}

impl RandomFaults {
    /// Several faults a second for a client that writes small values one after the other.
    pub fn seeded(seed: u64) -> Self {
        Self { seed, bytes: 4 << 10, age: Duration::from_secs(2), pause: Duration::from_millis(100) }
    }
}

/// What a proxy has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections that clients made, to the server or not.
    pub connections: usize,
    /// How many of them are open.
    pub open: usize,
    /// The most that were open at one time.
    pub most_open: usize,
    /// Connections that were [reset](Cut::Reset) between two pieces of what was sent.
    pub resets: usize,
    /// Connections that were [closed](Cut::Close) between two pieces of what was sent.
    pub closes: usize,
    /// Connections that were ended in the middle of a piece, of which only the first part was passed on.
    pub truncations: usize,
    /// Connections that stood still, in both directions, and went on.
    pub stalls: usize,
    /// Pieces that were passed on late.
    pub delays: usize,
}

impl Counts {
    /// Connections that the proxy ended, in whichever way.
    pub fn cuts(&self) -> usize {
        self.resets + self.closes + self.truncations
    }
}

/// What every connection does at present.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Orders {
    pub(super) faults: Option<RandomFaults>,
    pub(super) stalled: bool,
    pub(super) refusing: bool,
    /// How many commands to cut there were, and the last of them.
    pub(super) cuts: usize,
    pub(super) cut: Option<Cut>,
}
