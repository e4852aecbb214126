//! Deliberate bugs, and the way of tracking in which each of them matters.

use crate::args::Track;
use clap::ValueEnum;
use vellum_mmu::Break;

/// A deliberate bug that a migration must not survive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Name {
    /// A fault marks the page dirty before it makes the leaf storable
    MarkEarly,
    /// A harvest hands over without its shoot-down
    SkipFlush,
    /// A harvest loses a bit that it has cleared
    DropBit,
    /// A push-down opens the entry above before it settles the table below
    LateSettle,
}

impl Name {
    /// As the library calls it.
    pub(crate) fn bug(self) -> Break {
        match self {
            Self::MarkEarly => Break::MarkEarly,
            Self::SkipFlush => Break::SkipFlush,
            Self::DropBit => Break::DropBit,
            Self::LateSettle => Break::LateSettle,
        }
    }

    /// Only write-protect-all pushes down.
    pub(crate) fn track(self) -> Track {
        match self {
            Self::MarkEarly | Self::SkipFlush | Self::DropBit => Track::PerPage,
            Self::LateSettle => Track::ProtectAll,
        }
    }
}
