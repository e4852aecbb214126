//! A board's dirty log, as consumers take it.

use crate::board::Board;
use crate::walker::WalkedFormat;
use vellum_memory::{DirtySource, Layout, PageSet};
use vellum_mmu::{Initial, LogError, Protect};
use vellum_pte::SlotId;

/// How the log is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Track {
    /// Each harvest protects the pages that it found.
    PerPage,
    /// Each harvest protects everything at once, in constant time.
    ProtectAll,
}

/// The [`DirtySource`] over all memslots of a board. Dropping it does not stop the log.
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

    fn protect_how(&self) -> Protect {
        match self.track {
            Track::PerPage => Protect::Pages,
            Track::ProtectAll => Protect::Nothing,
        }
    }
}

impl<F: WalkedFormat> DirtySource for BoardLog<'_, F> {
    type Error = LogError;

    fn method(&self) -> &'static str {
        match self.track {
            Track::PerPage => "per-page",
            Track::ProtectAll => "protect-all",
        }
    }

    fn layout(&self) -> &Layout {
        self.board.layout()
    }

    fn start(&mut self) -> Result<(), LogError> {
        let started =
            self.slots().try_for_each(|slot| self.board.mmu().start_log(slot, Initial::Clean));
        if started.is_err() {
            // Those that had started stop; what stopping says adds nothing.
            let _ = self.stop();
        }
        started
    }

    /// The library ends write-protect-all with the last log.
    fn stop(&mut self) -> Result<(), LogError> {
        let stopped = self.slots().map(|slot| match self.board.mmu().stop_log(slot) {
            Err(LogError::NotLogged(_)) => Ok(()),
            other => other,
        });
        stopped.fold(Ok(()), Result::and)
    }

    fn collect(&mut self, round: &mut PageSet) -> Result<(), LogError> {
        let taken = self.take(self.protect_how(), round);
        if let Err(error) = taken {
            self.owe(round);
            return Err(error);
        }
        if self.track == Track::ProtectAll {
            self.board.mmu().write_protect_all();
        }
        Ok(())
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
