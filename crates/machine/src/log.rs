//! A board's dirty log, as consumers take it.

use crate::board::Board;
use crate::walker::WalkedFormat;
use core::ops::Range;
use vellum_memory::{DirtySource, Layout, PageSet, Region, RegionSet};
use vellum_mmu::{ClearError, ClearRange, Initial, LogError, Protect};
use vellum_pte::{GfnRange, SlotId};

/// How the log is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Track {
    /// Each harvest protects the pages that it found.
    PerPage,
    /// Each harvest protects everything at once, in constant time.
    ProtectAll,
    /// A harvest reads the log and protects nothing; pages are taken out of the log and protected
    /// when they are about to be copied.
    Manual,
    /// Processors set D bits, and each harvest makes way for new ones in constant time
    /// ([`DirtyBits::Scanned`](vellum_mmu::DirtyBits::Scanned)).
    DirtyBits,
    /// The same on processors that also write down which pages they were
    /// ([`DirtyBits::Logged`](vellum_mmu::DirtyBits::Logged)).
    Pml,
    /// Each port has a dirty ring, and stops when it is full.
    Ring,
}

/// Words of a bitmap that are cleared together.
const STRETCH: usize = 64;

/// The [`DirtySource`] over all memslots of a board. Dropping it does not stop the log.
///
/// The last three ways need a board whose [`Logging`](crate::Logging) is for them. On another they are
/// right all the same, and are what [`Track::ProtectAll`] and [`Track::PerPage`] are.
///
/// Every way starts with a clean log: a consumer sends everything first, so a log that began all set
/// would name all of it a second time.
pub struct BoardLog<'b, F: WalkedFormat> {
    board: &'b Board<F>,
    track: Track,
}

impl<'b, F: WalkedFormat> BoardLog<'b, F> {
    /// A source that has not started.
    #[must_use]
    pub fn new(board: &'b Board<F>, track: Track) -> Self {
        Self { board, track }
    }

    fn slots(&self) -> impl Iterator<Item = SlotId> + use<'b, F> {
        self.board.layout().regions().iter().map(|region| region.slot)
    }

    /// Takes every slot's dirty pages into `round`.
    fn take(&self, protect: Protect, round: &mut PageSet) -> Result<(), LogError> {
        for (slot, pages) in self.slots().zip(round.regions_mut()) {
            self.board.mmu().take_dirty(slot, protect, pages)?;
        }
        Ok(())
    }

    /// Empties every ring into `round`. Bitmaps have what rings had no room for.
    fn reap(&self, round: &mut PageSet) {
        if let Some(reaped) = self.board.embedder().reaped() {
            reaped.take(self.board.mmu(), round);
        }
    }

    /// Reads every slot's log into `round`.
    fn read(&self, round: &mut PageSet) -> Result<(), LogError> {
        let mut regions = self.slots().zip(round.regions_mut());
        regions.try_for_each(|(slot, pages)| self.board.mmu().read_dirty(slot, pages))
    }

    /// Takes pages of a slot out of its log, protected.
    fn clear(&self, set: &mut RegionSet, pages: Range<u64>) -> Result<(), ClearError> {
        let Region { slot, range, .. } = set.region();
        let words = pages.start / 64..pages.end.div_ceil(64);
        for first in words.clone().step_by(STRETCH) {
            let end = (first + STRETCH as u64).min(words.end) * 64;
            let count = end.min(range.pages()) - first * 64;
            let here = ClearRange { first: first * 64, pages: count };
            self.board.mmu().clear_dirty(slot, here, &masks(&pages, first), set)?;
        }
        Ok(())
    }
}

/// Which of the pages that the words from `first` on stand for are in `pages`. The others of a word
/// are left in the log: a consumer that has copied them would not look there again.
fn masks(pages: &Range<u64>, first: u64) -> [u64; STRETCH] {
    let below = |end: u64, word: u64| match end.saturating_sub(word * 64) {
        bits @ 0..64 => (1 << bits) - 1,
        _ => u64::MAX,
    };
    let mut words = first..;
    [(); STRETCH]
        .map(|()| words.next().map_or(0, |word| below(pages.end, word) & !below(pages.start, word)))
}

impl<F: WalkedFormat> DirtySource for BoardLog<'_, F> {
    type Error = ClearError;

    fn method(&self) -> &'static str {
        match self.track {
            Track::PerPage => "per-page",
            Track::ProtectAll => "protect-all",
            Track::Manual => "manual",
            Track::DirtyBits => "dirty-bits",
            Track::Pml => "pml",
            Track::Ring => "ring",
        }
    }

    fn layout(&self) -> &Layout {
        self.board.layout()
    }

    /// A log that is on begins anew: to the library it would be the same log, with what it has.
    fn start(&mut self) -> Result<(), ClearError> {
        self.stop()?;
        // What an earlier log left in the rings is in no round of this one.
        if let Some(reaped) = self.board.embedder().reaped() {
            reaped.forget(self.board.mmu());
        }
        let started =
            self.slots().try_for_each(|slot| self.board.mmu().start_log(slot, Initial::Clean));
        if started.is_err() {
            // Those that had started stop; what stopping says adds nothing.
            let _ = self.stop();
        }
        Ok(started?)
    }

    /// The library ends write-protect-all with the last log.
    fn stop(&mut self) -> Result<(), ClearError> {
        let stopped = self.slots().map(|slot| match self.board.mmu().stop_log(slot) {
            Err(LogError::NotLogged(_)) => Ok(()),
            other => other,
        });
        Ok(stopped.fold(Ok(()), Result::and)?)
    }

    fn collect(&mut self, round: &mut PageSet) -> Result<(), ClearError> {
        let taken = match self.track {
            Track::PerPage | Track::Ring => self.take(Protect::Pages, round),
            Track::ProtectAll | Track::DirtyBits | Track::Pml => self.take(Protect::Nothing, round),
            Track::Manual => self.read(round),
        };
        if let Err(error) = taken {
            self.owe(round);
            return Err(error.into());
        }
        match self.track {
            Track::ProtectAll | Track::DirtyBits | Track::Pml => {
                self.board.mmu().write_protect_all();
            }
            Track::Ring => self.reap(round),
            Track::PerPage | Track::Manual => {}
        }
        Ok(())
    }

    fn protect(
        &mut self,
        region: usize,
        range: GfnRange,
        round: &mut PageSet,
    ) -> Result<(), ClearError> {
        if self.track != Track::Manual {
            return Ok(());
        }
        let pages = &mut round.regions_mut()[region];
        let Some(here) = pages.region().range.intersection(range) else { return Ok(()) };
        let first = here.first().get() - pages.region().range.first().get();
        let cleared = self.clear(pages, first..first + here.pages());
        if cleared.is_err() {
            self.owe(round);
        }
        cleared
    }

    fn owe(&mut self, pages: &PageSet) {
        for pages in pages.regions() {
            for (word, mask) in pages.words() {
                // It fails only where the slot has no log: then nobody collects there either.
                let _ = self.board.mmu().owe(pages.region().slot, word, mask);
            }
        }
    }
}
