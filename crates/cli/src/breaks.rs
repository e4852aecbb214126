//! Deliberate bugs, and the migration in which each of them matters.

use crate::args::{Format, MachineArgs, Migrate, PageSize, Runs, Track};
use crate::quantity::Size;
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
    /// The kernel's rings are given back when the next round begins
    ResetEarly,
    /// The kernel's log is cleared after pages were read
    LateClear,
    /// The kernel's log is never cleared, which loses nothing
    LostClear,
    /// A source forgets what it owes after an attempt that failed
    ForgetOwed,
    /// A source runs its guest on without asking where it runs
    ResumeUnasked,
}

impl Name {
    /// As the library calls it that keeps our own tables, if it is in there.
    pub(crate) fn of_tracking(self) -> Option<Break> {
        Some(match self {
            Self::MarkEarly => Break::MarkEarly,
            Self::SkipFlush => Break::SkipFlush,
            Self::DropBit => Break::DropBit,
            Self::LateSettle => Break::LateSettle,
            Self::ClearMore => Break::ClearMore,
            Self::ReadLifts => Break::ReadLifts,
            Self::SplitLifts => Break::SplitLifts,
            Self::ResetEarly | Self::LateClear | Self::LostClear => return None,
            Self::ForgetOwed | Self::ResumeUnasked => return None,
        })
    }

    /// As the library calls it that reads the kernel's log, if it is in there.
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    pub(crate) fn of_kernel(self) -> Option<vellum_kvm::Break> {
        match self {
            Self::DropBit => Some(vellum_kvm::Break::DropBit),
            Self::ResetEarly => Some(vellum_kvm::Break::ResetEarly),
            Self::LateClear => Some(vellum_kvm::Break::LateClear),
            Self::LostClear => Some(vellum_kvm::Break::LostClear),
            _ => None,
        }
    }

    /// Whether it is in a library that tracks writes.
    fn is_of_tracking(self) -> bool {
        !matches!(self, Self::ForgetOwed | Self::ResumeUnasked)
    }

    /// As the library calls it that migrates, if it is in there and shows in this attempt, from 0.
    fn of_migration(self, attempt: u32) -> Option<vellum_migrate::Break> {
        match self {
            Self::ForgetOwed if attempt > 0 => Some(vellum_migrate::Break::ForgetOwed),
            Self::ResumeUnasked => Some(vellum_migrate::Break::ResumeUnasked),
            _ => None,
        }
    }

    /// Where the shipped path is that has it; drop-bit is in both.
    fn runs(self, asked: Runs) -> Runs {
        match self {
            Self::DropBit | Self::ForgetOwed | Self::ResumeUnasked => asked,
            Self::ResetEarly | Self::LateClear | Self::LostClear => Runs::Kvm,
            Self::MarkEarly
            | Self::SkipFlush
            | Self::LateSettle
            | Self::ClearMore
            | Self::ReadLifts
            | Self::SplitLifts => Runs::Software,
        }
    }

    /// Only write-protect-all pushes down and parks, only manual protect clears, only rings are reset.
    /// On /dev/kvm bits are dropped in every way.
    fn track(self, runs: Runs, asked: Track) -> Track {
        match self {
            Self::DropBit if runs == Runs::Kvm => asked,
            Self::MarkEarly | Self::SkipFlush | Self::DropBit | Self::SplitLifts => Track::PerPage,
            Self::LateSettle | Self::ReadLifts => Track::ProtectAll,
            Self::ClearMore | Self::LateClear | Self::LostClear => Track::Manual,
            Self::ResetEarly => Track::Ring,
            Self::ForgetOwed | Self::ResumeUnasked => asked,
        }
    }

    /// Only Arm's tables are parked.
    fn format(self, asked: Option<Format>) -> Option<Format> {
        if self == Self::ReadLifts { Some(Format::Stage2) } else { asked }
    }

    /// What the kernel's log loses is a store to a page that was just read. A guest that stores to
    /// its pages in turn, and has few of them, has made all of these when it is paused, and not yet
    /// made them again.
    fn on_a_few_pages(self, asked: MachineArgs) -> MachineArgs {
        match self {
            Self::ResetEarly | Self::LateClear => MachineArgs {
                guest: "sequential".to_owned(),
                memory: Size::of_bytes(16 << 20).unwrap_or(asked.memory),
                ..asked
            },
            _ => asked,
        }
    }

    /// The kernel's log loses what was stored between a round with many pages and the next, which has few:
    /// the guest is to be stopped by these few, and not by many.
    fn downtime(self) -> Duration {
        match self {
            Self::ResetEarly | Self::LateClear => Duration::from_millis(1),
            _ => Duration::from_nanos(1),
        }
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
/// between rounds: with a downtime that nothing fits, or next to nothing, there are as many as can be.
pub(crate) fn arranged(args: &Migrate) -> Migrate {
    let tracking = args.broken.filter(|bug| bug.is_of_tracking());
    let Some(bug) = tracking else { return args.clone() };
    let runs = bug.runs(args.runs);
    Migrate {
        runs,
        track: bug.track(runs, args.track),
        machine: MachineArgs {
            format: bug.format(args.machine.format),
            page_size: bug.page_size(args.machine.page_size),
            ..bug.on_a_few_pages(args.machine.clone())
        },
        downtime: bug.downtime(),
        ..args.clone()
    }
}
