//! Manual protect: get, then clear range by range; and forgetting what the guest does not need.

use crate::breaks::Break;
use crate::debts::Debt;
use crate::dirty::{DirtySet, words_of};
use crate::embedder::Embedder;
use crate::log::{LogError, logged};
use crate::mmu::{Mmu, State};
use crate::protector::Protector;
use crate::slots::Slot;
use core::ops::Range;
use vellum_memory::RegionSet;
use vellum_pte::{AddressSpace, Format, GfnRange, SlotId};

/// Why a range of the log was not cleared. Nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ClearError {
    /// The slot or its log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The first page is not a multiple of 64.
    #[error("the first page, {0}, is not a multiple of 64")]
    FirstUnaligned(u64),
    /// The number of pages is not a multiple of 64 and does not end at the slot's end.
    #[error("{0} pages are not a multiple of 64 and do not end at the slot's end")]
    CountUnaligned(u64),
    /// The range ends past the slot's end.
    #[error("pages up to {end} of a slot of {pages}")]
    PastTheEnd {
        /// The page after the last asked for.
        end: u64,
        /// Pages of the slot.
        pages: u64,
    },
    /// The mask has fewer words than the range.
    #[error("a mask of {given} words for {needed}")]
    ShortMask {
        /// Words that the range needs.
        needed: u64,
        /// Words of the mask.
        given: u64,
    },
}

/// Which pages of a slot a clear is about, by their place in the slot: the first a multiple of 64,
/// and their number too unless they end with the slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClearRange {
    /// The first.
    pub first: u64,
    /// How many.
    pub pages: u64,
}

impl ClearRange {
    /// The words of the bitmap that it is about, if it is one for a slot of `pages`.
    fn words(self, pages: u64) -> Result<Range<u64>, ClearError> {
        if !self.first.is_multiple_of(64) {
            return Err(ClearError::FirstUnaligned(self.first));
        }
        let end = self.first.saturating_add(self.pages);
        if end > pages {
            return Err(ClearError::PastTheEnd { end, pages });
        }
        if !self.pages.is_multiple_of(64) && end != pages {
            return Err(ClearError::CountUnaligned(self.pages));
        }
        Ok(self.first / 64..end.div_ceil(64))
    }
}

impl<F: Format, E: Embedder> Mmu<F, E> {
    /// Adds a slot's dirty pages to `into` and leaves them in the log, nothing protected: the *get*
    /// of manual protect. Before a page is read, [`clear_dirty`](Self::clear_dirty) takes it out.
    ///
    /// # Errors
    /// [`LogError::NoSlot`], [`LogError::NotLogged`], [`LogError::Mismatch`].
    pub fn read_dirty(&self, id: SlotId, into: &mut RegionSet) -> Result<(), LogError> {
        self.collect(id);
        let state = self.enter();
        let (_, log) = logged(&state, id, Some(into))?;
        log.pages.read(|word, mask| into.insert_word(word as u64, mask));
        Ok(())
    }

    /// Takes pages out of the log and protects them: those of `range` that are both dirty and in
    /// `mask`, a word for 64 pages. They are added to `into`, after a shoot-down: a store from then
    /// on is in a later harvest. Bits of `mask` past the slot's end are ignored, and so are words
    /// past the range's.
    ///
    /// # Errors
    /// [`ClearError`].
    pub fn clear_dirty(
        &self,
        id: SlotId,
        range: ClearRange,
        mask: &[u64],
        into: &mut RegionSet,
    ) -> Result<(), ClearError> {
        let mut debt = self.debts.raise(self.context());
        let state = self.enter();
        let (slot, log) = logged(&state, id, Some(into))?;
        let log = &log.pages;
        let words = range.words(log.pages())?;
        let (needed, given) = (words.end - words.start, mask.len() as u64);
        if given < needed {
            return Err(ClearError::ShortMask { needed, given });
        }
        let masks = words.zip(mask.iter().copied());
        self.clear(&state, slot, log, masks, &mut debt, |word, mask| into.insert_word(word, mask));
        drop(state);
        drop(debt);
        Ok(())
    }

    /// Takes pages out of the log that the guest says it does not need (a free-page hint), and
    /// protects them: a store from then on is logged again. What was stored before is in no harvest
    /// any more, but for entries that are in dirty rings by now. Pages of no logged slot are no matter.
    pub fn forget(&self, space: AddressSpace, range: GfnRange) {
        self.drain_logs();
        let mut debt = self.debts.raise(self.context());
        let state = self.enter();
        for slot in state.slots.iter().filter(|slot| slot.spec.space == space) {
            let here = slot.spec.range.intersection(range);
            if let (Some(here), Some(log)) = (here, slot.log.as_deref()) {
                self.scan_slot(&state, slot, &mut debt);
                let first = slot.page(here.first());
                let masks = words_of(first..first + here.pages());
                self.clear(&state, slot, &log.pages, masks, &mut debt, |_, _| {});
            }
        }
        drop(state);
        drop(debt);
    }

    fn clear(
        &self,
        state: &State<F>,
        slot: &Slot,
        log: &DirtySet,
        masks: impl Iterator<Item = (u64, u64)>,
        debt: &mut Debt<'_, E>,
        mut cleared: impl FnMut(u64, u64),
    ) {
        let mut pages = Protector::new(state, slot, self.context());
        for (word, mask) in masks {
            let taken = log.take_some(word, mask);
            if self.breaks.has(Break::ClearMore) {
                log.take_some(word, u64::MAX);
                log.take_some(word + 1, u64::MAX);
            }
            if taken != 0 {
                log.prepare(word * 64);
                pages.protect(word, taken, debt);
                cleared(word, taken);
            }
        }
    }
}
