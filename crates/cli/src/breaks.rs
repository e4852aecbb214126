//! Deliberate bugs, and the migration in which each of them matters.

use crate::args::{Format, Migrate, PageSize, Track};
use clap::ValueEnum;
use std::time::Duration;
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
    /// A clear takes more out of the log than it was asked for
    ClearMore,
    /// A read that links a parked table again does not settle it first
    ReadLifts,
    /// A huge leaf is split into storable ones
    SplitLifts,
}

impl Name {
    /// As the library calls it.
    pub(crate) fn bug(self) -> Break {
        match self {
            Self::MarkEarly => Break::MarkEarly,
            Self::SkipFlush => Break::SkipFlush,
            Self::DropBit => Break::DropBit,
            Self::LateSettle => Break::LateSettle,
            Self::ClearMore => Break::ClearMore,
            Self::ReadLifts => Break::ReadLifts,
            Self::SplitLifts => Break::SplitLifts,
        }
    }

    /// Only write-protect-all pushes down and parks, only manual protect clears.
    fn track(self) -> Track {
        match self {
            Self::MarkEarly | Self::SkipFlush | Self::DropBit | Self::SplitLifts => Track::PerPage,
            Self::LateSettle | Self::ReadLifts => Track::ProtectAll,
            Self::ClearMore => Track::Manual,
        }
    }

    /// Only Arm's tables are parked.
    fn format(self, asked: Format) -> Format {
        if self == Self::ReadLifts { Format::Stage2 } else { asked }
    }

    fn page_size(self, asked: PageSize) -> PageSize {
        if self == Self::SplitLifts { PageSize::Huge2M } else { asked }
    }
}

/// What was asked for, arranged so that the bug, if there is to be one, bites. That is between
/// rounds: with a downtime that nothing fits, there are as many as can be.
pub(crate) fn arranged(args: &Migrate) -> Migrate {
    let Some(bug) = args.broken else { return args.clone() };
    Migrate {
        track: bug.track(),
        format: bug.format(args.format),
        page_size: bug.page_size(args.page_size),
        downtime: Duration::from_nanos(1),
        ..args.clone()
    }
}
