//! What a log must say, known without it: a copy of the memory, compared with the memory.

use crate::memory::{Memory, PAGE};
use std::collections::BTreeSet;
use vellum_memory::{DirtySource, PageSet};

/// Numbers that look random (xorshift64*).
pub(crate) struct Draw(pub(crate) u64);

impl Draw {
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % end
    }
}

/// What was delivered of a memory.
pub(crate) struct Copy(Vec<[u64; PAGE / 8]>);

impl Copy {
    /// All of it.
    pub(crate) fn of(memory: &Memory) -> Self {
        Self((0..memory.pages()).map(|page| memory.read(page)).collect())
    }

    /// The pages that are other now than when they were delivered.
    pub(crate) fn changed(&self, memory: &Memory) -> BTreeSet<u64> {
        let is_other =
            |&page: &u64| memory.read(page) != self.0[usize::try_from(page).expect("few")];
        (0..memory.pages()).filter(is_other).collect()
    }

    /// Delivers the pages of `round`.
    pub(crate) fn deliver(&mut self, round: &PageSet, memory: &Memory) {
        for page in round.regions()[0].pages() {
            self.0[usize::try_from(page).expect("few")] = memory.read(page);
        }
    }
}

/// A round: collects, and protects all regions.
pub(crate) fn take<S: DirtySource>(log: &mut S, round: &mut PageSet) -> Result<(), S::Error> {
    round.clear();
    log.collect(round)?;
    protect(log, round)
}

/// Protects all regions.
pub(crate) fn protect<S: DirtySource>(log: &mut S, round: &mut PageSet) -> Result<(), S::Error> {
    let regions = log.layout().regions().to_vec();
    let mut regions = regions.iter().enumerate();
    regions.try_for_each(|(index, region)| log.protect(index, region.range, round))
}

/// The pages of the next round.
pub(crate) fn next(log: &mut impl DirtySource) -> BTreeSet<u64> {
    let mut round = PageSet::new(log.layout());
    take(log, &mut round).expect("a round");
    round.regions()[0].pages().collect()
}
