//! What the harvests of a run had.

use crate::oracle::Seen;
use alloc::vec::Vec;

/// Counts of a run.
#[derive(Default)]
pub(crate) struct Record {
    /// What each harvest looked like, and when it was, in milliseconds of the guest's time.
    pub(crate) harvests: Vec<(u64, Seen)>,
    /// How many blocks of 2 MiB there were when the log began anew, each time.
    pub(crate) blocks: Vec<usize>,
    /// For how many milliseconds the guest stood still for them.
    pub(crate) stopped: u64,
    /// Harvests that were made while a CPU of the guest ran, each part of the next of the others.
    pub(crate) under_way: u64,
    /// How often that CPU could not be halted.
    pub(crate) not_halted: u64,
}

/// How many lines tell of a run.
const LINES: u64 = 16;

impl Record {
    /// One more harvest.
    pub(crate) fn add(&mut self, at: u64, seen: Seen) {
        self.harvests.push((at, seen));
    }

    /// The last harvest.
    pub(crate) fn last(&self) -> Seen {
        self.harvests.last().map_or(Seen::default(), |(_, seen)| *seen)
    }

    /// All harvests together.
    pub(crate) fn total(&self) -> Seen {
        sum(self.harvests.iter())
    }

    /// Pages a harvest over the run's time.
    pub(crate) fn print(&self) {
        let end = self.harvests.last().map_or(0, |(at, _)| at + 1);
        runtime::println!("{end} ms of the guest's time, {} ms of harvests", self.stopped);
        for line in 0..LINES {
            let (from, to) = (line * end / LINES, (line + 1) * end / LINES);
            let during = || self.harvests.iter().filter(|(at, _)| (from..to).contains(at));
            let Seen { harvested, changed, lost } = sum(during());
            let count = during().count();
            runtime::println!(
                "from {from} to {to} ms: {count} harvests, {harvested} pages, {changed} changed, \
                 {lost} lost"
            );
        }
    }
}

fn sum<'s>(harvests: impl Iterator<Item = &'s (u64, Seen)>) -> Seen {
    harvests.fold(Seen::default(), |sum, (_, seen)| Seen {
        harvested: sum.harvested + seen.harvested,
        changed: sum.changed + seen.changed,
        lost: sum.lost + seen.lost,
    })
}
