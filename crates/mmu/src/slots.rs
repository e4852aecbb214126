//! Memslots: which guest pages there are.

use crate::allocate::{OutOfMemory, try_reserve_one};
use crate::dirty::DirtySet;
use alloc::boxed::Box;
use alloc::vec::Vec;
use vellum_pte::{AddressSpace, Gfn, GfnRange, SlotId};

/// Whether the guest may write a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlotAccess {
    /// It may.
    ReadWrite,
    /// A write ends as [`Outcome::ReadOnly`](crate::Outcome::ReadOnly).
    ReadOnly,
}

/// Whether a slot's writes are logged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogMode {
    /// No log, and no memory for one.
    Off,
    /// Logged from the first write on.
    On,
}

/// A memslot to be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotSpec {
    /// Its name, unique in the VM.
    pub id: SlotId,
    /// The address space it is in.
    pub space: AddressSpace,
    /// Its pages.
    pub range: GfnRange,
    /// Whether the guest may write it.
    pub access: SlotAccess,
    /// Whether writes are logged from the start.
    pub log: LogMode,
}

/// Why a slot was not made. Nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CreateSlotError {
    /// Another slot has this name, or shares a page with it in its address space.
    #[error("slot {0:?} exists there")]
    Exists(SlotId),
    /// The slot has no pages.
    #[error("a slot has at least one page")]
    Empty,
    /// It ends past what the format's tables can address.
    #[error("the slot ends at {end}, the tables reach to {limit}")]
    OutOfReach {
        /// The page after its last.
        end: Gfn,
        /// The page after the last that can be addressed.
        limit: Gfn,
    },
    /// The VM was made with fewer address spaces.
    #[error("there is no address space {0:?}")]
    NoSuchSpace(AddressSpace),
    /// No memory for the slot or its log.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
}

/// There is no slot of this name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("there is no slot {0:?}")]
pub struct NoSlot(pub SlotId);

#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) spec: SlotSpec,
    /// `None` while logging is off.
    pub(crate) log: Option<Box<DirtySet>>,
}

impl Slot {
    /// The place of a page that is in it.
    #[inline]
    pub(crate) fn page(&self, gfn: Gfn) -> u64 {
        gfn.get() - self.spec.range.first().get()
    }

    /// Makes room in the log for a page's own bit, if there is memory for it.
    pub(crate) fn prepare(&self, gfn: Gfn) {
        if let Some(log) = &self.log {
            log.prepare(self.page(gfn));
        }
    }

    /// Marks a page that is in it, if it is logged.
    #[inline]
    pub(crate) fn mark(&self, gfn: Gfn) {
        if let Some(log) = &self.log {
            log.mark(self.page(gfn));
        }
    }
}

/// All slots, sorted by address space and first page; a second order, by name.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    by_page: Vec<Slot>,
    by_name: Vec<(SlotId, usize)>,
}

impl Slots {
    /// The slot that holds a page.
    #[inline]
    pub(crate) fn find(&self, space: AddressSpace, gfn: Gfn) -> Option<&Slot> {
        let above = self.first_above(space, gfn);
        let slot = self.by_page[..above].last()?;
        (slot.spec.space == space && slot.spec.range.contains(gfn)).then_some(slot)
    }

    pub(crate) fn named(&self, id: SlotId) -> Result<&Slot, NoSlot> {
        Ok(&self.by_page[self.position(id)?])
    }

    pub(crate) fn named_mut(&mut self, id: SlotId) -> Result<&mut Slot, NoSlot> {
        let position = self.position(id)?;
        Ok(&mut self.by_page[position])
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.by_page.iter()
    }

    /// The slot that stands in the way of `spec`, if any.
    pub(crate) fn clash(&self, spec: &SlotSpec) -> Option<SlotId> {
        if self.named(spec.id).is_ok() {
            return Some(spec.id);
        }
        let last = Gfn::new(spec.range.end().get() - 1);
        let below = self.by_page[..self.first_above(spec.space, last)].last()?;
        (below.spec.space == spec.space && below.spec.range.overlaps(spec.range))
            .then_some(below.spec.id)
    }

    pub(crate) fn insert(&mut self, slot: Slot) -> Result<(), OutOfMemory> {
        try_reserve_one(&mut self.by_page)?;
        try_reserve_one(&mut self.by_name)?;
        let at = self.first_above(slot.spec.space, slot.spec.range.first());
        self.by_name.push((slot.spec.id, at));
        self.by_page.insert(at, slot);
        self.rename();
        Ok(())
    }

    pub(crate) fn remove(&mut self, id: SlotId) -> Result<Slot, NoSlot> {
        let slot = self.by_page.remove(self.position(id)?);
        self.by_name.pop();
        self.rename();
        Ok(slot)
    }

    /// The place of the first slot that begins above `gfn`.
    #[inline]
    fn first_above(&self, space: AddressSpace, gfn: Gfn) -> usize {
        self.by_page
            .partition_point(|slot| (slot.spec.space, slot.spec.range.first()) <= (space, gfn))
    }

    fn position(&self, id: SlotId) -> Result<usize, NoSlot> {
        match self.by_name.binary_search_by_key(&id, |(name, _)| *name) {
            Ok(place) => Ok(self.by_name[place].1),
            Err(_) => Err(NoSlot(id)),
        }
    }

    /// Rebuilds the order by name, in the room it has.
    fn rename(&mut self) {
        for (at, (entry, slot)) in self.by_name.iter_mut().zip(&self.by_page).enumerate() {
            *entry = (slot.spec.id, at);
        }
        self.by_name.sort_unstable();
    }
}
