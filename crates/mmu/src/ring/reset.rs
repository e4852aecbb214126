//! Taking pages out of the rings, and giving the room back.

use super::{DirtyRing, Said};
use crate::debts::Debt;
use crate::embedder::Embedder;
use crate::mmu::{Mmu, State};
use crate::protector::Protector;
use vellum_pte::{Format, SlotId};

/// A page that a ring names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RingPage {
    /// Its slot. It may be gone by now.
    pub slot: SlotId,
    /// Its place in the slot, in pages. Not checked against the slot's size.
    pub page: u64,
}

/// How a reset makes stores to the pages it takes back fault again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Again {
    /// Each page by itself, and one shoot-down.
    Pages,
    /// All of the VM's memory, in constant time (seed: the proposal for the ring's reset).
    Everything,
}

impl<F: Format, E: Embedder> Mmu<F, E> {
    /// Tells of every page in the rings, each ring's in order, and marks their entries as harvested.
    /// Returns how many. **Only after [`reset_rings`](Self::reset_rings) are pages read**: until then
    /// stores to them are not logged.
    ///
    /// `page` is called with a lock held and calls nothing of this library. What a log that has ended
    /// left in the rings is told of too: empty them before another begins.
    pub fn harvest_rings(&self, mut page: impl FnMut(RingPage)) -> u64 {
        let mut count = 0;
        for ring in self.read_side.rings() {
            let mut consumed = ring.consume(&self.embedder);
            let mut told = |said: Said| page(RingPage { slot: said.slot(), page: said.page() });
            while ring.harvest(&mut consumed, &mut told).is_continue() {
                count += 1;
            }
        }
        count
    }

    /// Takes back every entry that has been harvested, and makes stores to its page fault again. On
    /// return they do, and vCPUs that were kept out by a full ring may enter. Returns how many entries
    /// it took back. An entry whose slot is gone, or whose page is past the slot's end, is taken back
    /// and protects nothing. What another reset has taken back meanwhile faults too on return.
    pub fn reset_rings(&self, again: Again) -> u64 {
        match again {
            Again::Pages => self.reset_each(),
            Again::Everything => self.reset_all(),
        }
    }

    fn reset_all(&self) -> u64 {
        self.debts.raise_closing();
        let count = self.read_side.rings().map(|ring| self.free(ring)).sum();
        if count > 0 || self.debts.are_more_closing(1, self.breaks) {
            self.write_protect_all();
        } else {
            // Another may have taken them back page by page, and not shot down yet (F2).
            drop(self.debts.raise(self.context()));
        }
        self.debts.lower_closing();
        count
    }

    fn free(&self, ring: &DirtyRing) -> u64 {
        let mut consumed = ring.consume(&self.embedder);
        core::iter::from_fn(|| ring.reset(&mut consumed)).count() as u64
    }

    fn reset_each(&self) -> u64 {
        let mut debt = self.debts.raise(self.context());
        let state = self.enter();
        let mut count = 0;
        for ring in self.read_side.rings() {
            let mut consumed = ring.consume(&self.embedder);
            let mut word = Word::NONE;
            while let Some(said) = ring.reset(&mut consumed) {
                count += 1;
                if !word.takes(said) {
                    self.protect_word(&state, word, &mut debt);
                    word = Word::of(said);
                }
            }
            self.protect_word(&state, word, &mut debt);
        }
        drop(state);
        drop(debt);
        if self.debts.are_more_closing(0, self.breaks) {
            // Another has taken back what was harvested, and not protected it yet.
            self.write_protect_all();
        }
        count
    }

    fn protect_word(&self, state: &State<F>, word: Word, debt: &mut Debt<'_, E>) {
        let Ok(slot) = state.slots.named(word.slot) else { return };
        let Some(log) = &slot.log else { return };
        let mask = log.pages.valid_in(word.number) & word.mask;
        if mask != 0 {
            Protector::new(state, slot, self.context()).protect(word.number, mask, debt);
        }
    }
}

/// Pages of 64 that follow each other in a ring.
#[derive(Clone, Copy)]
struct Word {
    slot: SlotId,
    number: u64,
    /// Empty: no page.
    mask: u64,
}

impl Word {
    const NONE: Self = Self { slot: SlotId(0), number: 0, mask: 0 };

    fn of(said: Said) -> Self {
        Self { slot: said.slot(), number: said.page() / 64, mask: 1 << (said.page() % 64) }
    }

    /// Adds a page, if it is one of these 64.
    fn takes(&mut self, said: Said) -> bool {
        let other = Self::of(said);
        let same = self.mask != 0 && (self.slot, self.number) == (other.slot, other.number);
        if same {
            self.mask |= other.mask;
        }
        same
    }
}
