//! Adding, changing and removing memslots.
//!
//! Each is one exclusive section that cannot fail half-way: what can be refused or run out of memory
//! comes before the first change, so that a slot is whole after any error.

use crate::allocate::OutOfMemory;
use crate::debts::{Debt, Takes};
use crate::dirty::Initial;
use crate::dirty_bits::DirtyBits;
use crate::embedder::Embedder;
use crate::invalidation::Invalidation;
use crate::log::Log;
use crate::mmu::{Mmu, State};
use crate::slots::{ChangeSlotError, CreateSlotError, LogMode, NoSlot, Slot, SlotSpec};
use crate::table::Graveyard;
use crate::track::{RemovedRegion, TrackCounts};
use alloc::boxed::Box;
use vellum_pte::{Format, GfnRange, SlotId};

impl<F: Format, E: Embedder> Mmu<F, E> {
    /// Adds a memslot. Nothing is mapped until the guest touches it.
    ///
    /// # Errors
    /// [`CreateSlotError`]; nothing has changed.
    pub fn create_slot(&self, spec: SlotSpec) -> Result<(), CreateSlotError> {
        self.enter().check_place(&spec)?;
        let log = self.log_for(&spec)?;
        let mut state = self.read_side.exclude(&self.embedder);
        if let Some(id) = state.slots.clash(&spec) {
            return Err(CreateSlotError::Exists(id));
        }
        state.slots.insert(Slot::new(spec, log))?;
        drop(state);
        // A slot that was here may still be in some TLB, if its shoot-down is on its way (F2).
        drop(self.debts.raise(self.context()));
        Ok(())
    }

    /// Makes the slot of the same name what `spec` says: moves it, starts or stops its log. Its
    /// memory goes with it, and so do its log (one that is on and stays on is kept as it is) and its
    /// maps of sub-pages. Where it was, no page is tracked any more, and listeners hear of it. A slot
    /// that already is so stays so.
    ///
    /// On return no access reaches the memory where the slot was. Where it starts to be logged, this
    /// is [`start_log`](Self::start_log), where it stops, [`stop_log`](Self::stop_log).
    ///
    /// # Errors
    /// [`ChangeSlotError`]; nothing has changed.
    pub fn change_slot(&self, spec: SlotSpec) -> Result<(), ChangeSlotError> {
        self.enter().check_place(&spec)?;
        let place = self.enter().check_change(&spec)?.range;
        let mut log = self.log_for(&spec)?;
        if spec.log == LogMode::On {
            self.forget_dirty_bits(spec.id)?;
        }
        let still = self.keep_still(&spec, place);
        let mut debt = self.debts.raise_for(Takes::Mappings, self.context());
        let mut graves = Graves::new();
        let mut state = self.read_side.exclude(&self.embedder);
        let before = state.check_change(&spec)?;
        if before.range != place {
            // Another has moved it meanwhile, and it was kept still where it is not.
            drop((state, debt, still));
            return self.change_slot(spec);
        }
        let moved = before.range != spec.range;
        let mut counts = TrackCounts::default();
        if moved {
            self.invalidations.slot_changes();
            self.keep_dirty_bits(&state, &before, &mut debt);
            state.zap(&before, &mut graves);
            state.slots.relocate(spec.id, spec.range)?;
            state.spell_sub_pages(spec.id);
            core::mem::swap(&mut state.slots.named_mut(spec.id)?.tracked, &mut counts);
        }
        let slot = state.slots.named_mut(spec.id)?;
        let was_logged = slot.log.is_some();
        if was_logged != log.is_some() {
            core::mem::swap(&mut slot.log, &mut log);
            self.end_protection_without_logs(&state);
        }
        drop(state);
        if moved {
            debt.pay()
        } else {
            drop(debt)
        }
        graves.release(&self.embedder);
        drop((log, counts, still));
        if moved {
            self.tell_removed(&before);
        }
        self.follow_log(spec, was_logged);
        Ok(())
    }

    /// Removes a memslot, its log and all that was mapped, tracked or restricted of it. No access
    /// reaches its memory any more: the embedder may free it when this returns. Listeners hear of it
    /// before.
    ///
    /// # Errors
    /// [`NoSlot`].
    pub fn delete_slot(&self, id: SlotId) -> Result<(), NoSlot> {
        let debt = self.debts.raise_for(Takes::Mappings, self.context());
        let mut graves = Graves::new();
        let mut state = self.read_side.exclude(&self.embedder);
        let slot = state.slots.remove(id)?;
        self.invalidations.slot_changes();
        state.zap(&slot.spec, &mut graves);
        if slot.log.is_some() {
            self.end_protection_without_logs(&state);
        }
        drop(state);
        debt.pay();
        graves.release(&self.embedder);
        self.tell_removed(&slot.spec);
        Ok(())
    }

    /// What hardware knows of a slot that moves goes with its log: leaf by leaf, since a walk that is
    /// under way may still set D in a table that was unlinked.
    fn keep_dirty_bits(&self, state: &State<F>, spec: &SlotSpec, debt: &mut Debt<'_, E>) {
        if self.config.dirty_bits == DirtyBits::Scanned {
            let mut credit = |gfn| self.credit(state, spec.space, gfn);
            for root in state.roots.over(spec.space, spec.range) {
                root.unmap(spec.range, self.context(), debt, &mut credit);
            }
        }
    }

    /// What hardware has logged by itself names the place that a slot moves away from. So it is handed
    /// over before the move, and until then nothing is mapped there that more could be logged of.
    fn keep_still(&self, spec: &SlotSpec, place: GfnRange) -> Option<Invalidation<'_, F, E>> {
        if self.config.dirty_bits != DirtyBits::Logged || place == spec.range {
            return None;
        }
        let still = self.invalidate(spec.space, place);
        self.drain_logs();
        Some(still)
    }

    fn tell_removed(&self, spec: &SlotSpec) {
        let SlotSpec { id: slot, space, range, .. } = *spec;
        self.listeners.removed(self, &RemovedRegion { slot, space, range });
    }

    /// A log for a slot that wants one.
    fn log_for(&self, spec: &SlotSpec) -> Result<Option<Box<Log>>, OutOfMemory> {
        let initial = match spec.log {
            LogMode::Off => return Ok(None),
            LogMode::On => Initial::Clean,
            LogMode::AllSet => Initial::AllSet,
        };
        self.new_log(spec.range.pages(), initial).map(Some)
    }

    /// What a log that has just begun or ended asks for. The slot may be gone by now: then nothing.
    fn follow_log(&self, spec: SlotSpec, was_logged: bool) {
        match (was_logged, spec.log) {
            (false, LogMode::On) => drop(self.protect_mapped(spec.id)),
            (true, LogMode::Off) => drop(self.recover_huge(spec.id)),
            _ => {}
        }
    }
}

impl<F: Format> State<F> {
    /// Whether tables translate the slot's pages.
    fn check_place(&self, spec: &SlotSpec) -> Result<(), CreateSlotError> {
        match spec.range.end() {
            _ if spec.range.pages() == 0 => Err(CreateSlotError::Empty),
            _ if !self.roots.has(spec.space) => Err(CreateSlotError::NoSuchSpace(spec.space)),
            end if end > self.limit => Err(CreateSlotError::OutOfReach { end, limit: self.limit }),
            _ => Ok(()),
        }
    }

    /// What the slot is now, if it may become `spec`.
    fn check_change(&self, spec: &SlotSpec) -> Result<SlotSpec, ChangeSlotError> {
        let before = self.slots.named(spec.id)?.spec;
        let moved = SlotSpec { range: spec.range, log: spec.log, ..before };
        if moved != *spec || before.range.pages() != spec.range.pages() {
            return Err(ChangeSlotError::Fixed(spec.id));
        }
        match self.slots.others_there(spec) {
            Some(other) => Err(ChangeSlotError::Place(CreateSlotError::Exists(other))),
            None => Ok(before),
        }
    }

    /// Takes all mappings of a slot away, with faults kept out.
    fn zap(&mut self, spec: &SlotSpec, graves: &mut Graves<F>) {
        for root in self.roots.over_mut(spec.space, spec.range) {
            root.zap(spec.range, &mut graves.pages);
        }
        self.sub_pages.zap(spec.space, spec.range, &mut graves.sub_pages);
    }
}

/// What a slot leaves behind, until the shoot-down.
struct Graves<F: Format> {
    pages: Graveyard<F>,
    sub_pages: Graveyard<F::SubPages>,
}

impl<F: Format> Graves<F> {
    const fn new() -> Self {
        Self { pages: Graveyard::new(), sub_pages: Graveyard::new() }
    }

    /// The shoot-down has been made (F1).
    fn release<E: Embedder>(self, embedder: &E) {
        self.pages.release(embedder);
        self.sub_pages.release(embedder);
    }
}
