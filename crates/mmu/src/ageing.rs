//! Which pages the guest has used lately.

use crate::debts::Takes;
use crate::embedder::Embedder;
use crate::mmu::{AccessedBits, Mmu};
use crate::slots::NoSlot;
use crate::table::HowToAge;
use vellum_memory::RegionSet;
use vellum_pte::{ClearAccessed, Format, GfnRange, SlotId};

/// Why a slot's pages were not aged. Nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AgeError {
    /// There is no such slot.
    #[error(transparent)]
    NoSlot(#[from] NoSlot),
    /// The set to fill is for another number of pages than the slot has.
    #[error("the slot has {slot} pages, the set {set}")]
    Mismatch {
        /// Pages of the slot.
        slot: u64,
        /// Pages of the set.
        set: u64,
    },
}

impl<F: Format, E: Embedder> Mmu<F, E> {
    /// Adds to `into` the pages of a slot, of those in `range`, that were accessed since they were
    /// last asked about. A huge leaf is one thing: all its pages in `range` with it. On return every
    /// access is seen again.
    ///
    /// Where hardware sets no A bits ([`AccessedBits::NotSet`]) and a clear one does not fault, the
    /// mappings themselves go, and whoever comes back was accessed.
    ///
    /// # Errors
    /// [`AgeError`].
    pub fn age(&self, id: SlotId, range: GfnRange, into: &mut RegionSet) -> Result<(), AgeError> {
        let takes = match self.how_to_age() {
            HowToAge::Unmap => Takes::Mappings,
            HowToAge::ClearAccessed => Takes::Permissions,
        };
        let mut debt = self.debts.raise_for(takes, self.context());
        let state = self.enter();
        let slot = state.slots.named(id)?;
        let (pages, set) = (slot.spec.range.pages(), into.region().range.pages());
        if pages != set {
            return Err(AgeError::Mismatch { slot: pages, set });
        }
        let Some(range) = slot.spec.range.intersection(range) else { return Ok(()) };
        let mut young = |used: GfnRange| {
            let first = slot.page(used.first());
            for (word, mask) in crate::dirty::words_of(first..first + used.pages()) {
                into.insert_word(word, mask);
            }
        };
        for root in state.roots.over(slot.spec.space, range) {
            root.age(range, self.how_to_age(), self.context(), &mut debt, &mut young);
        }
        drop(state);
        drop(debt);
        Ok(())
    }

    fn how_to_age(&self) -> HowToAge {
        match (self.config.accessed, F::CLEAR_ACCESSED) {
            (AccessedBits::NotSet, ClearAccessed::Passes) => HowToAge::Unmap,
            _ => HowToAge::ClearAccessed,
        }
    }
}
