//! Adding, changing and removing memslots.
//!
//! Each is one exclusive section that cannot fail half-way: what can be refused or run out of memory
//! comes before the first change, so that a slot is whole after any error.

use crate::allocate::OutOfMemory;
use crate::debts::Takes;
use crate::dirty::{DirtySet, Initial};
use crate::embedder::Embedder;
use crate::mmu::{Mmu, State};
use crate::slots::{ChangeSlotError, CreateSlotError, LogMode, NoSlot, Slot, SlotSpec};
use crate::table::Graveyard;
use alloc::boxed::Box;
use vellum_pte::{Format, SlotId};

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
        state.slots.insert(Slot { spec, log })?;
        drop(state);
        // A slot that was here may still be in some TLB, if its shoot-down is on its way (F2).
        drop(self.debts.raise(self.context()));
        Ok(())
    }

    /// Makes the slot of the same name what `spec` says: moves it, starts or stops its log. Its
    /// memory goes with it and so does its log: one that is on and stays on is kept as it is. A slot
    /// that already is so stays so.
    ///
    /// On return no access reaches the memory where the slot was. Where it starts to be logged, this
    /// is [`start_log`](Self::start_log), where it stops, [`stop_log`](Self::stop_log).
    ///
    /// # Errors
    /// [`ChangeSlotError`]; nothing has changed.
    pub fn change_slot(&self, spec: SlotSpec) -> Result<(), ChangeSlotError> {
        self.enter().check_place(&spec)?;
        let mut log = self.log_for(&spec)?;
        let debt = self.debts.raise_for(Takes::Mappings, self.context());
        let mut graveyard = Graveyard::new();
        let mut state = self.read_side.exclude(&self.embedder);
        let before = state.check_change(&spec)?;
        let moved = before.range != spec.range;
        if moved {
            self.invalidations.slot_changes();
            state.zap(&before, &mut graveyard);
            state.slots.relocate(spec.id, spec.range)?;
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
        graveyard.release(&self.embedder);
        drop(log);
        self.follow_log(spec, was_logged);
        Ok(())
    }

    /// Removes a memslot, its log and all that was mapped of it. On return no access reaches its
    /// memory: the embedder may free it.
    ///
    /// # Errors
    /// [`NoSlot`].
    pub fn delete_slot(&self, id: SlotId) -> Result<(), NoSlot> {
        let debt = self.debts.raise_for(Takes::Mappings, self.context());
        let mut graveyard = Graveyard::new();
        let mut state = self.read_side.exclude(&self.embedder);
        let slot = state.slots.remove(id)?;
        self.invalidations.slot_changes();
        state.zap(&slot.spec, &mut graveyard);
        if slot.log.is_some() {
            self.end_protection_without_logs(&state);
        }
        drop(state);
        debt.pay();
        graveyard.release(&self.embedder);
        drop(slot);
        Ok(())
    }

    /// A log for a slot that wants one.
    fn log_for(&self, spec: &SlotSpec) -> Result<Option<Box<DirtySet>>, OutOfMemory> {
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
    fn zap(&mut self, spec: &SlotSpec, graveyard: &mut Graveyard<F>) {
        for root in self.roots.over_mut(spec.space, spec.range) {
            root.zap(spec.range, graveyard);
        }
    }
}
