//! The dirty log: start, harvest, owe, stop.

use crate::allocate::OutOfMemory;
use crate::breaks::Break;
use crate::debts::Debt;
use crate::dirty::{DirtySet, Initial, bits};
use crate::dirty_bits::{DirtyBits, Touched};
use crate::embedder::Embedder;
use crate::mmu::{Mmu, State};
use crate::protector::Protector;
use crate::slots::{NoSlot, Slot, SlotSpec};
use alloc::boxed::Box;
use vellum_memory::RegionSet;
use vellum_pte::{AddressSpace, Format, Gfn, Level, SlotId};

/// The log of a memslot.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) pages: DirtySet,
    /// Where hardware may have set D since anybody looked; only where it is asked by scanning.
    pub(crate) touched: Option<Touched>,
}

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

/// Who made a write that no vCPU makes by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// A vCPU, by the embedder's number.
    Vcpu(u32),
    /// Nobody with a vCPU: a device, or the VMM itself.
    Device,
}

impl<F: Format, E: Embedder> Mmu<F, E> {
    /// Starts logging a slot. On while on: the log is kept as it is.
    ///
    /// [`Initial::Clean`]: before it returns, everything mapped of the slot is write-protected, so
    /// that every store from then on is logged. Huge leaves are split by the first write to each, or
    /// by [`split_huge`](Self::split_huge). [`Initial::AllSet`]: every page is dirty, nothing is
    /// protected, and it takes no longer for more that is mapped.
    ///
    /// # Errors
    /// [`LogError::NoSlot`], [`LogError::OutOfMemory`].
    pub fn start_log(&self, id: SlotId, initial: Initial) -> Result<(), LogError> {
        while let Some(pages) = self.pages_without_log(id)? {
            let log = self.new_log(pages, initial)?;
            if initial == Initial::Clean {
                self.forget_dirty_bits(id)?;
            }
            self.attach_log(id, log)?;
        }
        match initial {
            Initial::Clean => Ok(self.protect_mapped(id)?),
            Initial::AllSet => Ok(()),
        }
    }

    /// Stops logging a slot and frees its log. Where huge leaves may be, they are back on return
    /// ([`recover_huge`](Self::recover_huge)); small ones become writable again one by one. When
    /// the last log stops, write-protect-all is off.
    ///
    /// # Errors
    /// [`LogError::NoSlot`], [`LogError::NotLogged`].
    pub fn stop_log(&self, id: SlotId) -> Result<(), LogError> {
        let mut state = self.read_side.exclude(&self.embedder);
        let log = state.slots.named_mut(id)?.log.take().ok_or(LogError::NotLogged(id))?;
        self.end_protection_without_logs(&state);
        drop(state);
        drop(log);
        // Whoever deletes the slot meanwhile needs no huge leaf.
        let _ = self.recover_huge(id);
        Ok(())
    }

    /// Harvests: takes a slot's dirty pages out of the log and adds them to `into`, a set for as
    /// many pages as the slot has. Needs no memory.
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
                self.collect(id);
                let state = self.enter();
                let (_, log) = logged(&state, id, Some(into))?;
                self.take(&log.pages, |word, mask| into.insert_word(word as u64, mask));
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
        let log = &log.pages;
        log.prepare(word.saturating_mul(64));
        for bit in bits(mask) {
            log.mark(word.saturating_mul(64).saturating_add(bit as u64));
        }
        Ok(())
    }

    /// Logs a write that went past the library: by a device, or by an embedder's own copy. It is in the
    /// slot's bitmap, whoever made it: what a vCPU wrote and its ring is to name, whoever drives it hands to
    /// [`Vcpu::log_stores`](crate::Vcpu::log_stores). A page outside of every logged slot is no matter. Never
    /// fails, never allocates: where nothing was mapped yet, the 64 pages around it are logged. Waits while a
    /// slot changes, so it is not for an interrupt handler that may have interrupted a slot change on its own
    /// CPU.
    pub fn mark_dirty(&self, space: AddressSpace, gfn: Gfn) {
        if let Some(slot) = self.enter().slots.find(space, gfn) {
            slot.mark(gfn);
        }
    }

    /// What D bits say of stores before a log begins is not in it. **Only while there is none**: then
    /// they are the log's, whoever has begun it.
    pub(crate) fn forget_dirty_bits(&self, id: SlotId) -> Result<(), NoSlot> {
        if self.config.dirty_bits != DirtyBits::Scanned {
            return Ok(());
        }
        let mut debt = self.debts.raise(self.context());
        let state = self.enter();
        let slot = state.slots.named(id)?;
        if slot.log.is_none() {
            self.protect_slot(&state, slot, &mut debt);
        }
        drop(state);
        drop(debt);
        Ok(())
    }

    /// Protects everything that is mapped of a slot, and makes room in its log for it. What its D bits
    /// say is in the log then.
    pub(crate) fn protect_mapped(&self, id: SlotId) -> Result<(), NoSlot> {
        let mut debt = self.debts.raise(self.context());
        let state = self.enter();
        let protected = state.slots.named(id).map(|slot| {
            self.protect_slot(&state, slot, &mut debt);
            self.scan_slot(&state, slot, &mut debt);
        });
        drop(state);
        drop(debt);
        protected
    }

    /// Swap the words out, protect what was set, one shoot-down for all, and only then hand over.
    fn take_and_protect(&self, id: SlotId, into: &mut RegionSet) -> Result<(), LogError> {
        self.collect(id);
        let mut debt = self.debts.raise(self.context());
        let state = self.enter();
        let (slot, log) = logged(&state, id, Some(into))?;
        let mut pages = Protector::new(&state, slot, self.context());
        self.take(&log.pages, |word, mask| {
            into.insert_word(word as u64, mask);
            pages.protect(word as u64, mask, &mut debt);
        });
        drop(state);
        drop(debt);
        Ok(())
    }

    fn take(&self, log: &DirtySet, mut taken: impl FnMut(usize, u64)) {
        log.take(|word, mask| {
            let lost = self.breaks.has(Break::DropBit) && (cfg!(loom) || word % 8 == 5);
            // Where words were marked as a whole, the next marks can tell pages apart.
            log.prepare(word as u64 * 64);
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
    fn attach_log(&self, id: SlotId, log: Box<Log>) -> Result<(), NoSlot> {
        let mut state = self.read_side.exclude(&self.embedder);
        let slot = state.slots.named_mut(id)?;
        let fits = slot.log.is_none() && slot.spec.range.pages() == log.pages.pages();
        let spare = if fits { slot.log.replace(log) } else { Some(log) };
        drop(state);
        drop(spare);
        Ok(())
    }

    /// Makes the next store to each leaf heard of that the writable sets of the slot's tables name,
    /// lock-free: whether stores pass an entry that points to a table is write-protect-all's affair.
    /// Where D bits are a log, they are left to the scan that follows.
    fn protect_slot(&self, state: &State<F>, slot: &Slot, debt: &mut Debt<'_, E>) {
        let SlotSpec { space, range, .. } = slot.spec;
        for root in state.roots.over(space, range) {
            root.for_each(range, &mut |table, span| {
                if table.level() == Level::L1 {
                    slot.prepare(table.base_of(span.start));
                    slot.prepare(table.base_of(span.end - 1));
                    slot.touch::<F>(table.base_of(span.start));
                    if self.config.dirty_bits == DirtyBits::Scanned && slot.log.is_some() {
                        return;
                    }
                }
                let inside = table.writable().iter().filter(|index| span.contains(index));
                debt.note(table.rearm_leaves(inside, self.context()));
            });
        }
    }
}

/// A slot and its log; with a set to fill, one that fits.
pub(crate) fn logged<'s, F: Format>(
    state: &'s State<F>,
    id: SlotId,
    into: Option<&RegionSet>,
) -> Result<(&'s Slot, &'s Log), LogError> {
    let slot = state.slots.named(id)?;
    let log = slot.log.as_deref().ok_or(LogError::NotLogged(id))?;
    let pages = log.pages.pages();
    match into.map(|set| set.region().range.pages()) {
        Some(set) if set != pages => Err(LogError::Mismatch { slot: pages, set }),
        _ => Ok((slot, log)),
    }
}
