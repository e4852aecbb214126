//! Deliberate bugs, and the migration in which each of them matters.

use crate::args::{Format, MachineArgs, Migrate, PageSize, Track};
use clap::ValueEnum;
use std::time::Duration;
use vellum_migrate::Options;
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
    /// A source forgets what it owes after an attempt that failed
    ForgetOwed,
    /// A source runs its guest on without asking where it runs
    ResumeUnasked,
}

impl Name {
    /// As the library calls it that tracks writes, if it is in there.
    pub(crate) fn of_tracking(self) -> Option<Break> {
        Some(match self {
            Self::MarkEarly => Break::MarkEarly,
            Self::SkipFlush => Break::SkipFlush,
            Self::DropBit => Break::DropBit,
            Self::LateSettle => Break::LateSettle,
            Self::ClearMore => Break::ClearMore,
            Self::ReadLifts => Break::ReadLifts,
            Self::SplitLifts => Break::SplitLifts,
            Self::ForgetOwed | Self::ResumeUnasked => return None,
        })
    }

    /// As the library calls it that migrates, if it is in there and shows in this attempt, from 0.
    fn of_migration(self, attempt: u32) -> Option<vellum_migrate::Break> {
        match self {
            Self::ForgetOwed if attempt > 0 => Some(vellum_migrate::Break::ForgetOwed),
            Self::ResumeUnasked => Some(vellum_migrate::Break::ResumeUnasked),
            _ => None,
        }
    }

    /// Only write-protect-all pushes down and parks, only manual protect clears.
    fn track(self, asked: Track) -> Track {
        match self {
            Self::MarkEarly | Self::SkipFlush | Self::DropBit | Self::SplitLifts => Track::PerPage,
            Self::LateSettle | Self::ReadLifts => Track::ProtectAll,
            Self::ClearMore => Track::Manual,
            Self::ForgetOwed | Self::ResumeUnasked => asked,
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

/// Options that hold the bug, if there is to be one, for this attempt, from 0.
pub(crate) fn options(bug: Option<Name>, attempt: u32) -> Options {
    Options { broken: bug.and_then(|bug| bug.of_migration(attempt)), ..Options::default() }
}

/// What was asked for, arranged so that a bug of the tracking, if there is to be one, bites. That is
/// between rounds: with a downtime that nothing fits, there are as many as can be.
pub(crate) fn arranged(args: &Migrate) -> Migrate {
    let tracking = args.broken.filter(|bug| bug.of_tracking().is_some());
    let Some(bug) = tracking else { return args.clone() };
    Migrate {
        track: bug.track(args.track),
        machine: MachineArgs {
            format: bug.format(args.machine.format),
            page_size: bug.page_size(args.machine.page_size),
            ..args.machine.clone()
        },
        downtime: Duration::from_nanos(1),
        ..args.clone()
    }
}
