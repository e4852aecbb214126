//! Who empties dirty rings, and where to.

use crate::embedder::BoardEmbedder;
use crate::walker::WalkedFormat;
use std::sync::{Mutex, MutexGuard, PoisonError};
use vellum_memory::{Layout, PageSet};
use vellum_mmu::{Again, Mmu, RingPage};
use vellum_pte::SlotId;

/// What was taken out of a board's rings and nobody has asked for yet: by a port whose ring was full,
/// or for a harvest.
#[derive(Debug)]
pub(crate) struct Reaped {
    pages: Mutex<PageSet>,
    slots: Vec<SlotId>,
    again: Again,
}

impl Reaped {
    pub(crate) fn new(layout: &Layout, again: Again) -> Self {
        let slots = layout.regions().iter().map(|region| region.slot).collect();
        Self { pages: Mutex::new(PageSet::new(layout)), slots, again }
    }

    fn lock(&self) -> MutexGuard<'_, PageSet> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Empties the rings: first all entries are copied, then they are given back and their pages
    /// protected. Whoever comes meanwhile waits, and finds the rings empty.
    pub(crate) fn reap<F: WalkedFormat>(&self, mmu: &Mmu<F, BoardEmbedder>) {
        self.reap_into(&mut self.lock(), mmu);
    }

    fn reap_into<F: WalkedFormat>(&self, pages: &mut PageSet, mmu: &Mmu<F, BoardEmbedder>) {
        mmu.harvest_rings(|RingPage { slot, page }| {
            if let Some(place) = self.slots.iter().position(|other| *other == slot) {
                // A page past the end is none.
                pages.regions_mut()[place].insert_word(page / 64, 1 << (page % 64));
            }
        });
        mmu.reset_rings(self.again);
    }

    /// Empties the rings and forgets what was in them.
    pub(crate) fn forget<F: WalkedFormat>(&self, mmu: &Mmu<F, BoardEmbedder>) {
        let mut pages = self.lock();
        self.reap_into(&mut pages, mmu);
        pages.clear();
    }

    /// Hands over all that was ever in the rings.
    pub(crate) fn take<F: WalkedFormat>(&self, mmu: &Mmu<F, BoardEmbedder>, round: &mut PageSet) {
        let mut pages = self.lock();
        self.reap_into(&mut pages, mmu);
        round.merge(&pages);
        pages.clear();
    }
}
