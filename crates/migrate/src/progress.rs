//! What a migration is doing, while it does it.

use std::fmt;

/// The steps of a migration, in their order, as either side takes them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Phase {
    /// Reaching the destination.
    Connect,
    /// Agreeing on version, machine and layout.
    Greet,
    /// Starting the dirty log.
    Start,
    /// Copying pages while the guest runs.
    Copy,
    /// The guest is paused; the last pages and its state are copied.
    StopAndCopy,
    /// Comparing the memory of both sides.
    Verify,
    /// Giving the guest over. From here on the source does not resume it by itself.
    HandOver,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connecting",
            Self::Greet => "greeting",
            Self::Start => "starting the log",
            Self::Copy => "copying",
            Self::StopAndCopy => "copying the rest",
            Self::Verify => "verifying",
            Self::HandOver => "handing over",
        })
    }
}

/// How far a migration is. Given at the beginning of each phase and each round, and many times a
/// second while pages move.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// The step.
    pub phase: Phase,
    /// The round, from 1; 0 before the first.
    pub round: u32,
    /// Pages sent (or received) in this round, those of zeros included.
    pub sent: u64,
    /// Pages left in this round, as far as it is known; the destination does not know and says 0.
    pub remaining: u64,
    /// Bytes on the wire since the beginning.
    pub bytes: u64,
}
