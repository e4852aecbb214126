//! One VM's second stage.

use crate::allocate::{OutOfMemory, try_box, try_reserve_one};
use crate::breaks::Breaks;
use crate::counters::Tally;
use crate::debts::Debts;
use crate::dirty::DirtySet;
use crate::embedder::Embedder;
use crate::protection::Protection;
use crate::read_side::{ReadGuard, ReadSide};
use crate::slots::{CreateSlotError, LogMode, NoSlot, Slot, SlotSpec, Slots};
use crate::table::{Graveyard, Table};
use crate::vcpu::Vcpu;
use crate::vm_context::Context;
use crate::writer::GuestWriter;
use alloc::boxed::Box;
use alloc::vec::Vec;
use vellum_pte::{AddressSpace, Format, Gfn, Pfn, SlotId};

/// How a VM's second stage is made.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// How many address spaces, each with a root of its own. At least one is made.
    pub spaces: u16,
    /// The deliberate bug of this VM, if any.
    #[cfg(feature = "breaks")]
    pub broken: Option<crate::breaks::Break>,
}

impl Default for Config {
    /// One address space, nothing broken.
    fn default() -> Self {
        Self {
            spaces: 1,
            #[cfg(feature = "breaks")]
            broken: None,
        }
    }
}

impl Config {
    fn breaks(self) -> Breaks {
        Breaks {
            #[cfg(feature = "breaks")]
            chosen: self.broken,
        }
    }
}

/// Boxed, as every table, so that it can be buried with the others.
type Root<F> = Box<Table<F>>;

/// What faults read and slot changes alter.
pub(crate) struct State<F> {
    pub(crate) slots: Slots,
    pub(crate) roots: Vec<Root<F>>,
}

impl<F: Format> State<F> {
    /// The root of an address space that has slots.
    #[inline]
    pub(crate) fn root(&self, space: AddressSpace) -> &Table<F> {
        &self.roots[usize::from(space.0)]
    }
}

/// One VM's second stage: its memslots, its tables of format `F`, and who wrote where.
///
/// Any number in one process; nothing is global. All functions may be called from any thread at
/// the same time. Out of memory at any allocation leaves a working VM.
pub struct Mmu<F: Format, E: Embedder> {
    pub(crate) read_side: ReadSide<State<F>>,
    pub(crate) protection: Protection,
    pub(crate) debts: Debts,
    pub(crate) embedder: E,
    /// What is counted outside of faults.
    pub(crate) tally: Tally,
    pub(crate) breaks: Breaks,
}

impl<F: Format, E: Embedder> Mmu<F, E> {
    /// A VM without slots, with an empty root for each address space.
    ///
    /// # Errors
    /// [`OutOfMemory`]: no frame for a root, or no memory for its software half.
    pub fn new(embedder: E, config: Config) -> Result<Self, OutOfMemory> {
        let breaks = config.breaks();
        let mut roots = Roots { made: Vec::new(), embedder: &embedder };
        for _ in 0..config.spaces.max(1) {
            roots.add()?;
        }
        let state = State { slots: Slots::default(), roots: roots.finish() };
        let read_side = ReadSide::new(state, &embedder, breaks);
        let (protection, debts) = (Protection::new(), Debts::new());
        Ok(Self { read_side, protection, debts, embedder, tally: Tally::shared(), breaks })
    }

    /// The embedder that it was made with.
    pub const fn embedder(&self) -> &E {
        &self.embedder
    }

    /// The frame of an address space's root table, for EPTP (Intel SDM vol. 3C, 25.6.11) or nCR3
    /// (AMD APM vol. 2, 15.25.4). It stays the same as long as the VM lives. `None` where the VM
    /// was made with fewer address spaces.
    pub fn root(&self, space: AddressSpace) -> Option<Pfn> {
        self.enter().roots.get(usize::from(space.0)).map(|root| root.pfn())
    }

    /// A handle for one vCPU's faults. To be made at any time, on any thread.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn vcpu(&self) -> Result<Vcpu<'_, F, E>, OutOfMemory> {
        Ok(Vcpu::new(self, self.read_side.take_seat()?))
    }

    /// For writes to guest memory that no vCPU makes.
    pub const fn guest_writer(&self) -> GuestWriter<'_, F, E> {
        GuestWriter::new(self)
    }

    /// Adds a memslot. Nothing is mapped until the guest touches it.
    ///
    /// # Errors
    /// [`CreateSlotError`]; nothing has changed.
    pub fn create_slot(&self, spec: SlotSpec) -> Result<(), CreateSlotError> {
        self.check_reach(&spec)?;
        let log = match spec.log {
            LogMode::Off => None,
            LogMode::On => Some(self.new_log(spec.range.pages())?),
        };
        let mut state = self.read_side.exclude(&self.embedder);
        if usize::from(spec.space.0) >= state.roots.len() {
            return Err(CreateSlotError::NoSuchSpace(spec.space));
        }
        if let Some(id) = state.slots.clash(&spec) {
            return Err(CreateSlotError::Exists(id));
        }
        state.slots.insert(Slot { spec, log })?;
        drop(state);
        // A slot that was here may still be in some TLB, if its shoot-down is on its way (F2).
        drop(self.debts.raise(self.context()));
        Ok(())
    }

    /// Removes a memslot, its log and all that was mapped of it. On return no access reaches its
    /// memory: the embedder may free it.
    ///
    /// # Errors
    /// [`NoSlot`].
    pub fn delete_slot(&self, id: SlotId) -> Result<(), NoSlot> {
        let debt = self.debts.raise(self.context());
        let (slot, graveyard) = self.unlink(id)?;
        debt.pay();
        graveyard.release(&self.embedder);
        drop(slot);
        Ok(())
    }

    /// Counts of everything so far.
    #[cfg(feature = "counters")]
    pub fn counters(&self) -> crate::counters::CounterSnapshot {
        let mut sum = crate::counters::CounterSnapshot::default();
        sum.add(&self.tally);
        self.read_side.tallies().for_each(|tally| sum.add(tally));
        sum
    }

    fn check_reach(&self, spec: &SlotSpec) -> Result<(), CreateSlotError> {
        let limit = Gfn::new(1 << (u32::from(F::ROOT.get()) * F::INDEX_BITS));
        match spec.range.end() {
            _ if spec.range.pages() == 0 => Err(CreateSlotError::Empty),
            end if end > limit => Err(CreateSlotError::OutOfReach { end, limit }),
            _ => Ok(()),
        }
    }

    /// Hides a slot and takes its mappings away, with faults kept out.
    fn unlink(&self, id: SlotId) -> Result<(Slot, Graveyard<F>), NoSlot> {
        let mut graveyard = Graveyard::new();
        let mut state = self.read_side.exclude(&self.embedder);
        let slot = state.slots.remove(id)?;
        let root = &mut state.roots[usize::from(slot.spec.space.0)];
        root.zap(slot.spec.range, &mut graveyard);
        Ok((slot, graveyard))
    }

    pub(crate) fn new_log(&self, pages: u64) -> Result<Box<DirtySet>, OutOfMemory> {
        try_box(DirtySet::new(pages, self.breaks)?).map_err(|(error, _)| error)
    }

    /// Enters the read side without a seat.
    pub(crate) fn enter(&self) -> ReadGuard<'_, State<F>> {
        self.read_side.enter_unseated(&self.embedder)
    }

    pub(crate) const fn context(&self) -> Context<'_, E> {
        Context { embedder: &self.embedder, tally: &self.tally, breaks: self.breaks }
    }
}

impl<F: Format, E: Embedder> Drop for Mmu<F, E> {
    /// Gives all frames back. No vCPU runs any more: their handles borrow this. But processors may
    /// remember the tables, and the next VM's may get the same frames.
    fn drop(&mut self) {
        let debt = self.debts.raise(self.context());
        let mut state = self.read_side.exclude(&self.embedder);
        let roots = core::mem::take(&mut state.roots);
        drop(state);
        debt.pay();
        drop_roots(roots, &self.embedder);
    }
}

/// The roots made so far; they go back if one more cannot be had.
struct Roots<'a, F: Format, E: Embedder> {
    made: Vec<Root<F>>,
    embedder: &'a E,
}

impl<F: Format, E: Embedder> Roots<'_, F, E> {
    fn add(&mut self) -> Result<(), OutOfMemory> {
        try_reserve_one(&mut self.made)?;
        let root = Table::allocate(F::ROOT, Gfn::new(0), self.embedder)?;
        self.made.push(root);
        Ok(())
    }

    fn finish(mut self) -> Vec<Root<F>> {
        core::mem::take(&mut self.made)
    }
}

impl<F: Format, E: Embedder> Drop for Roots<'_, F, E> {
    fn drop(&mut self) {
        drop_roots(core::mem::take(&mut self.made), self.embedder);
    }
}

fn drop_roots<F: Format, E: Embedder>(roots: Vec<Root<F>>, embedder: &E) {
    for root in roots {
        root.bury().release(embedder);
    }
}
