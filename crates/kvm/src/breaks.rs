//! Deliberate bugs in the shipped paths: the negative control of every proof.
//!
//! Without the feature `breaks` the questions below are constant and the code behind them is gone.

use vellum_memory::{GfnRange, PageSet};

/// A deliberate bug of a [`KvmLog`](crate::KvmLog).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Break {
    /// In every way: a collection loses a page of each 64 that it has.
    DropBit,
    /// With rings: what a round has harvested is given back when the next one begins, so that pages are
    /// read while stores to them are in no log.
    ResetEarly,
    /// With manual protection: what a round should have cleared is cleared when the next one begins. By
    /// then its pages have been read, and what was stored since is cleared with them.
    LateClear,
    /// With manual protection: nothing is ever cleared. No page is lost, and each comes again in every
    /// round.
    LostClear,
    /// With rings and bitmaps: the bitmaps are never read. What the kernel writes with no vCPU running is
    /// lost.
    IgnoreBitmaps,
}

/// What a round should have cleared: a region, a range of it, and the round.
type Overdue = (usize, GfnRange, PageSet);

/// Which bug, if any, a log has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Breaks {
    #[cfg(feature = "breaks")]
    pub(crate) chosen: Option<Break>,
    /// What [`Break::LateClear`] has put off.
    #[cfg(feature = "breaks")]
    late: Vec<Overdue>,
}

#[cfg(feature = "breaks")]
impl Breaks {
    fn has(&self, bug: Break) -> bool {
        self.chosen == Some(bug)
    }

    /// Whether what should be cleared now is not.
    pub(crate) fn puts_off(&mut self, region: usize, range: GfnRange, round: &PageSet) -> bool {
        if self.has(Break::LateClear) {
            self.late.push((region, range, round.clone()));
        }
        self.has(Break::LateClear) || self.has(Break::LostClear)
    }

    /// What is to be cleared when a round begins, since it was not when it should have been.
    pub(crate) fn overdue(&mut self) -> Vec<Overdue> {
        core::mem::take(&mut self.late)
    }

    /// Whether the bitmaps beside rings are not read.
    pub(crate) fn ignores_bitmaps(&self) -> bool {
        self.has(Break::IgnoreBitmaps)
    }

    /// Whether rings are given back when a round begins, and not when they should be.
    pub(crate) fn resets_when_a_round_begins(&self) -> bool {
        self.has(Break::ResetEarly)
    }

    /// Holds the window of a bug open for a while, so that it bites without luck: a guest that runs
    /// stores again to much of what was read, and is paused before it has stored there once more.
    pub(crate) fn hold_open(&self) {
        if self.has(Break::LateClear) || self.has(Break::ResetEarly) {
            std::thread::sleep(core::time::Duration::from_millis(100));
        }
    }

    /// Loses what is to be lost of a collection.
    pub(crate) fn lose(&self, round: &mut PageSet) {
        if self.has(Break::DropBit) {
            round.regions_mut().iter_mut().for_each(drop_bits);
        }
    }
}

/// The first page of each 64.
#[cfg(feature = "breaks")]
fn drop_bits(pages: &mut vellum_memory::RegionSet) {
    let firsts: Vec<u64> =
        pages.words().map(|(word, mask)| word * 64 + u64::from(mask.trailing_zeros())).collect();
    firsts.into_iter().for_each(|page| pages.remove(page));
}

#[cfg(not(feature = "breaks"))]
#[allow(clippy::unused_self)]
impl Breaks {
    pub(crate) const fn puts_off(&self, _: usize, _: GfnRange, _: &PageSet) -> bool {
        false
    }

    pub(crate) const fn ignores_bitmaps(&self) -> bool {
        false
    }

    pub(crate) const fn overdue(&self) -> [Overdue; 0] {
        []
    }

    pub(crate) const fn resets_when_a_round_begins(&self) -> bool {
        false
    }

    pub(crate) const fn hold_open(&self) {}

    pub(crate) const fn lose(&self, _: &mut PageSet) {}
}
