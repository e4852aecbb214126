//! The dirty log: start, harvest, owe, stop; and write-protect-all.

use crate::allocate::OutOfMemory;
use crate::breaks::Break;
use crate::debts::Debt;
use crate::dirty::{DirtySet, bits};
use crate::embedder::Embedder;
use crate::mmu::{Mmu, State};
use crate::slots::{NoSlot, Slot};
use crate::table::Table;
use alloc::boxed::Box;
use vellum_memory::RegionSet;
use vellum_pte::{AddressSpace, Format, Gfn, SlotId};

/// Why an operation on a slot's log failed. Nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LogError {
    /// There is no such slot.
    #[error(transparent)]
    NoSlot(#[from] NoSlot),
    /// The slot's writes are not logged.
    #[error("slot {0:?} has no dirty log")]
    NotLogged(SlotId),
    /// The set to fill is for another number of pages than the slot has.
    #[error("the slot has {slot} pages, the set {set}")]
    Mismatch {
        /// Pages of the slot.
        slot: u64,
        /// Pages of the set.
        set: u64,
    },
    /// No memory for the log.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
}

/// What a harvest does to the pages it takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protect {
    /// Protects each page it takes, and shoots down: a store after the return is in a later
    /// harvest.
    Pages,
    /// Protects nothing (seed: `KVM_DIRTY_LOG_WITHOUT_WRITE_PROTECT`). The caller takes from all
    /// slots, then calls [`Mmu::write_protect_all`] once, **and only then reads pages**.
    Nothing,
}

/// Who made a write that the embedder reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// A vCPU, by the embedder's number.
    Vcpu(u32),
    /// Nobody with a vCPU: a device, or the VMM itself.
    Device,
}

impl<F: Format, E: Embedder> Mmu<F, E> {
    /// Starts logging a slot: before it returns, everything mapped of it is write-protected, so
    /// that every store from then on is logged. On while on: the log is kept as it is.
    ///
    /// # Errors
    /// [`LogError::NoSlot`], [`LogError::OutOfMemory`].
    pub fn start_log(&self, id: SlotId) -> Result<(), LogError> {
        while let Some(pages) = self.pages_without_log(id)? {
            self.attach_log(id, self.new_log(pages)?)?;
        }
        let mut debt = self.debts.raise(self.context());
        let state = self.enter();
        let protected =
            state.slots.named(id).map(|slot| self.protect_slot(&state, slot, &mut debt));
        drop(state);
        drop(debt);
        Ok(protected?)
    }

    /// Stops logging a slot and frees its log. Pages become writable again one by one. When the
    /// last log stops, write-protect-all is off.
    ///
    /// # Errors
    /// [`LogError::NoSlot`], [`LogError::NotLogged`].
    pub fn stop_log(&self, id: SlotId) -> Result<(), LogError> {
        let mut state = self.read_side.exclude(&self.embedder);
        let log = state.slots.named_mut(id)?.log.take().ok_or(LogError::NotLogged(id))?;
        if state.slots.iter().all(|slot| slot.log.is_none()) {
            self.write_protect_all_off();
        }
        drop(state);
        drop(log);
        Ok(())
    }

    /// Harvests: takes a slot's dirty pages out of the log and adds them to `into`, a set for as
    /// many pages as the slot has. Allocates nothing.
    ///
    /// # Errors
    /// [`LogError::NoSlot`], [`LogError::NotLogged`], [`LogError::Mismatch`].
    pub fn take_dirty(
        &self,
        id: SlotId,
        protect: Protect,
        into: &mut RegionSet,
    ) -> Result<(), LogError> {
        match protect {
            Protect::Pages => self.take_and_protect(id, into),
            Protect::Nothing => {
                let state = self.enter();
                let (_, log) = logged(&state, id, Some(into))?;
                self.take(log, |word, mask| into.insert_word(word as u64, mask));
                Ok(())
            }
        }
    }

    /// Makes pages dirty again that were harvested and could not be delivered (D2): those of
    /// `mask` in the `word`-th group of 64 of the slot, as [`RegionSet::words`] gives them. What lies
    /// past the slot's end is ignored.
    ///
    /// # Errors
    /// [`LogError::NoSlot`], [`LogError::NotLogged`].
    pub fn owe(&self, id: SlotId, word: u64, mask: u64) -> Result<(), LogError> {
        let state = self.enter();
        let (_, log) = logged(&state, id, None)?;
        log.prepare(word.saturating_mul(64));
        for bit in bits(mask) {
            log.mark(word.saturating_mul(64).saturating_add(bit as u64));
        }
        Ok(())
    }

    /// Logs a write that went past the library: by a device, or by an embedder's own copy. A page
    /// outside of every logged slot is no matter. Never fails, never allocates: where nothing was
    /// mapped yet, the 64 pages around it are logged. Waits while a slot changes, so it is not for
    /// an interrupt handler that may have interrupted a slot change on its own CPU.
    pub fn mark_dirty(&self, space: AddressSpace, gfn: Gfn, origin: Origin) {
        // A bitmap does not say who wrote; a ring will.
        let _ = origin;
        if let Some(slot) = self.enter().slots.find(space, gfn) {
            slot.mark(gfn);
        }
    }

    /// Makes every store trap again, in all slots, at a cost that depends neither on the guest's
    /// memory nor on its vCPUs: a new generation, one settled table for each root, one shoot-down.
    /// The protection is pushed down to the tables one by one, by the faults that meet it.
    ///
    /// On return: every page that a store changes from now on is marked dirty by a fault that ends
    /// after whatever the caller took out of the log before.
    pub fn write_protect_all(&self) {
        let debt = self.debts.raise(self.context());
        let state = self.enter();
        let turn = self.protection.turn(&self.embedder);
        let generation = self.protection.advance(&turn);
        for root in &state.roots {
            let mut locked = root.lock(self.context());
            root.settle(&mut locked, generation, self.context());
        }
        drop(turn);
        drop(state);
        debt.pay();
    }

    /// Ends write-protect-all, lazily: what is closed opens at the next write.
    pub fn write_protect_all_off(&self) {
        self.protection.disable(&self.protection.turn(&self.embedder));
    }

    /// Swap the words out, protect what was set, one shoot-down for all, and only then hand over.
    fn take_and_protect(&self, id: SlotId, into: &mut RegionSet) -> Result<(), LogError> {
        let mut debt = self.debts.raise(self.context());
        let state = self.enter();
        let (slot, log) = logged(&state, id, Some(into))?;
        let mut pages = Protector { root: state.root(slot.spec.space), table: None };
        self.take(log, |word, mask| {
            into.insert_word(word as u64, mask);
            let first = slot.spec.range.first().get() + word as u64 * 64;
            pages.protect(Gfn::new(first), mask, &mut debt, self);
        });
        drop(state);
        drop(debt);
        Ok(())
    }

    fn take(&self, log: &DirtySet, mut taken: impl FnMut(usize, u64)) {
        log.take(|word, mask| {
            let lost = self.breaks.has(Break::DropBit) && (cfg!(loom) || word % 8 == 5);
            taken(word, if lost { mask & (mask - 1) } else { mask });
        });
    }

    /// How many pages a slot has, if it is not logged.
    fn pages_without_log(&self, id: SlotId) -> Result<Option<u64>, NoSlot> {
        let state = self.enter();
        let slot = state.slots.named(id)?;
        Ok(slot.log.is_none().then(|| slot.spec.range.pages()))
    }

    /// Hangs `log` on the slot, if the slot is as it was when the log was made.
    fn attach_log(&self, id: SlotId, log: Box<DirtySet>) -> Result<(), NoSlot> {
        let mut state = self.read_side.exclude(&self.embedder);
        let slot = state.slots.named_mut(id)?;
        let fits = slot.log.is_none() && slot.spec.range.pages() == log.pages();
        let spare = if fits { slot.log.replace(log) } else { Some(log) };
        drop(state);
        drop(spare);
        Ok(())
    }

    /// Protects everything mapped of a slot, and makes room in its log for it.
    fn protect_slot(&self, state: &State<F>, slot: &Slot, debt: &mut Debt<'_, E>) {
        let range = slot.spec.range;
        state.root(slot.spec.space).for_each_leaf_table(range, &mut |table| {
            let span = table.span(range);
            if let Some(log) = &slot.log {
                log.prepare(slot.page(table.base_of(span.start)));
                log.prepare(slot.page(table.base_of(span.end - 1)));
            }
            let inside = table.writable().iter().filter(|index| span.contains(index));
            debt.note(table.close(inside, self.context()));
        });
    }
}

/// Takes storability from pages, remembering the table that the last one was in.
struct Protector<'a, F: Format> {
    root: &'a Table<F>,
    table: Option<&'a Table<F>>,
}

impl<'a, F: Format> Protector<'a, F> {
    /// Protects the pages of `mask` from `first` on, table by table.
    fn protect<E: Embedder>(
        &mut self,
        first: Gfn,
        mask: u64,
        debt: &mut Debt<'_, E>,
        mmu: &Mmu<F, E>,
    ) {
        let mut rest = mask;
        while rest != 0 {
            let gfn = Gfn::new(first.get() + u64::from(rest.trailing_zeros()));
            let here = rest & below(Table::<F>::end_of_leaf_table(gfn) - first.get());
            if let Some(table) = self.table_of(gfn) {
                let index = |bit| table.index(Gfn::new(first.get() + bit as u64));
                debt.note(table.close(bits(here).map(index), mmu.context()));
            }
            rest &= !here;
        }
    }

    fn table_of(&mut self, gfn: Gfn) -> Option<&'a Table<F>> {
        if !self.table.is_some_and(|table| table.covers(gfn)) {
            self.table = self.root.leaf_table(gfn);
        }
        self.table
    }
}

/// A mask of the bits below `count`.
const fn below(count: u64) -> u64 {
    if count < 64 { (1 << count) - 1 } else { u64::MAX }
}

/// A slot and its log; with a set to fill, one that fits.
fn logged<'s, F: Format>(
    state: &'s State<F>,
    id: SlotId,
    into: Option<&RegionSet>,
) -> Result<(&'s Slot, &'s DirtySet), LogError> {
    let slot = state.slots.named(id)?;
    let log = slot.log.as_deref().ok_or(LogError::NotLogged(id))?;
    match into.map(|set| set.region().range.pages()) {
        Some(set) if set != log.pages() => Err(LogError::Mismatch { slot: log.pages(), set }),
        _ => Ok((slot, log)),
    }
}
