//! Memslots: which guest pages there are.

use crate::allocate::{OutOfMemory, try_reserve_one};
use crate::breaks::{Break, Breaks};
use crate::embedder::{Backing, BackingWrite, GuestPage};
use crate::log::Log;
use crate::protection::ProtectAll;
use crate::sub_pages::SubPageMaps;
use crate::table::Table;
use crate::track::{TrackCounts, TrackMode};
use alloc::boxed::Box;
use alloc::vec::Vec;
use vellum_pte::{AddressSpace, Format, Gfn, GfnRange, Level, SlotId, SubPageMap, Write};

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
    /// Logged, and every page counts as written: a consumer that begins with everything takes the
    /// first round from the log too (seed: `KVM_DIRTY_LOG_INITIALLY_SET`).
    AllSet,
}

/// The embedder's name for the memory behind a slot: handed back when a page of it is resolved or
/// written, and never looked at.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct MemoryId(pub u64);

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
    /// What is behind it.
    pub memory: MemoryId,
}

impl SlotSpec {
    /// A slot that may be written, is not logged, and whose memory is named by its first page.
    #[must_use]
    pub const fn new(id: SlotId, space: AddressSpace, range: GfnRange) -> Self {
        let (access, log) = (SlotAccess::ReadWrite, LogMode::Off);
        Self { id, space, range, access, log, memory: MemoryId(range.first().get()) }
    }
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

/// Why a slot was not changed. Nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ChangeSlotError {
    /// There is no such slot.
    #[error(transparent)]
    NoSlot(#[from] NoSlot),
    /// Its size, its address space, its memory or whether it may be written would be another: delete
    /// it and create it anew.
    #[error("slot {0:?} cannot change its size, space, memory or access")]
    Fixed(SlotId),
    /// It cannot be there, or there is no memory for its log.
    #[error(transparent)]
    Place(#[from] CreateSlotError),
}

impl From<OutOfMemory> for ChangeSlotError {
    fn from(error: OutOfMemory) -> Self {
        Self::Place(error.into())
    }
}

/// There is no slot of this name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("there is no slot {0:?}")]
pub struct NoSlot(pub SlotId);

#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) spec: SlotSpec,
    /// `None` while logging is off.
    pub(crate) log: Option<Box<Log>>,
    /// Who tracks which page.
    pub(crate) tracked: TrackCounts,
    /// What of which page may not be written.
    pub(crate) maps: SubPageMaps,
}

impl Slot {
    /// Of a spec, nothing tracked or restricted.
    pub(crate) fn new(spec: SlotSpec, log: Option<Box<Log>>) -> Self {
        Self { spec, log, tracked: TrackCounts::default(), maps: SubPageMaps::default() }
    }

    /// The place of a page that is in it.
    #[inline]
    pub(crate) fn page(&self, gfn: Gfn) -> u64 {
        gfn.get() - self.spec.range.first().get()
    }

    #[inline]
    pub(crate) fn guest_page(&self, gfn: Gfn) -> GuestPage {
        let SlotSpec { id: slot, memory, space, .. } = self.spec;
        GuestPage { slot, memory, index: self.page(gfn), space, gfn }
    }

    /// The level of the largest leaf that may map a page. Where writes are logged, each page has
    /// its own; so has a page that is tracked or restricted, and those around it with it.
    pub(crate) fn largest_leaf<F: Format>(
        &self,
        gfn: Gfn,
        backing: Backing,
        breaks: Breaks,
    ) -> Level {
        let mut level = Level::L1;
        while let Some(above) = level.above()
            && self.log.is_none()
            && above <= backing.largest
            && above <= Level::L3
            && self.fits::<F>(above, gfn, backing)
            && (breaks.has(Break::IgnoreVeto) || !self.restricts(Table::<F>::around(gfn, above)))
        {
            level = above;
        }
        level
    }

    /// Whether guest and host memory are aligned alike, and the leaf is inside the slot.
    fn fits<F: Format>(&self, level: Level, gfn: Gfn, backing: Backing) -> bool {
        let pages = Table::<F>::pages_at(level);
        let alike = (gfn.get() ^ backing.frame.get()).is_multiple_of(pages);
        alike && Table::<F>::leaf_fits(level, gfn, self.spec.range)
    }

    /// Whether a page of `range` is tracked or has a map: then no leaf over it is storable as a whole.
    pub(crate) fn restricts(&self, range: GfnRange) -> bool {
        let Some(range) = self.spec.range.intersection(range) else { return false };
        let first = self.page(range.first());
        let pages = first..first + range.pages();
        self.tracked.any(pages.clone()) || self.maps.any(pages)
    }

    /// Which sub-pages of a page may be written.
    pub(crate) fn map(&self, gfn: Gfn) -> SubPageMap {
        self.maps.get(self.page(gfn))
    }

    /// Whether writes to a page are tracked.
    pub(crate) fn is_tracked(&self, gfn: Gfn, mode: TrackMode) -> bool {
        self.tracked.get(self.page(gfn), mode) > 0
    }

    /// What stores to a leaf for `range` that nobody is writing to may do: pass if nobody would hear
    /// of it, for there is no log, and no write-protect-all that a read must not lift. Asked under the
    /// lock of the leaf's table: a table stamped by a later write-protect-all is settled after this.
    pub(crate) fn permission(
        &self,
        range: GfnRange,
        backing: BackingWrite,
        protection: ProtectAll,
    ) -> Write {
        let read_only = self.spec.access == SlotAccess::ReadOnly;
        if read_only || backing == BackingWrite::Denied || self.restricts(range) {
            Write::Denied
        } else if self.log.is_none() && protection == ProtectAll::Off {
            Write::Storable
        } else {
            Write::Liftable
        }
    }

    /// Makes room in the log for a page's own bit, if there is memory for it.
    pub(crate) fn prepare(&self, gfn: Gfn) {
        if let Some(log) = &self.log {
            log.pages.prepare(self.page(gfn));
        }
    }

    /// Marks a page that is in it, if it is logged.
    #[inline]
    pub(crate) fn mark(&self, gfn: Gfn) {
        if let Some(log) = &self.log {
            log.pages.mark(self.page(gfn));
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

    /// The slots that have pages of `range`.
    pub(crate) fn over(&self, space: AddressSpace, range: GfnRange) -> impl Iterator<Item = &Slot> {
        let last = Gfn::new(range.end().get() - 1);
        let below = self.by_page[..self.first_above(space, last)].iter().rev();
        below.take_while(move |slot| slot.spec.space == space && slot.spec.range.overlaps(range))
    }

    /// The same, with faults kept out.
    pub(crate) fn find_mut(&mut self, space: AddressSpace, gfn: Gfn) -> Option<&mut Slot> {
        let above = self.first_above(space, gfn);
        let slot = self.by_page[..above].last_mut()?;
        (slot.spec.space == space && slot.spec.range.contains(gfn)).then_some(slot)
    }

    pub(crate) fn named_mut(&mut self, id: SlotId) -> Result<&mut Slot, NoSlot> {
        let position = self.position(id)?;
        Ok(&mut self.by_page[position])
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.by_page.iter()
    }

    /// The slot that stands in the way of `spec`, if any: of its name, or of its pages.
    pub(crate) fn clash(&self, spec: &SlotSpec) -> Option<SlotId> {
        if self.named(spec.id).is_ok() {
            return Some(spec.id);
        }
        self.others_there(spec)
    }

    /// A slot of another name that has pages of `spec`.
    pub(crate) fn others_there(&self, spec: &SlotSpec) -> Option<SlotId> {
        self.over(spec.space, spec.range).map(|slot| slot.spec.id).find(|id| *id != spec.id)
    }

    pub(crate) fn insert(&mut self, slot: Slot) -> Result<(), OutOfMemory> {
        try_reserve_one(&mut self.by_page)?;
        try_reserve_one(&mut self.by_name)?;
        self.place(slot);
        Ok(())
    }

    pub(crate) fn remove(&mut self, id: SlotId) -> Result<Slot, NoSlot> {
        let name = self.name(id)?;
        let (_, at) = self.by_name.remove(name);
        self.by_name.iter_mut().filter(|(_, place)| *place > at).for_each(|entry| entry.1 -= 1);
        Ok(self.by_page.remove(at))
    }

    /// Gives a slot another first page, where nothing stands in its way.
    pub(crate) fn relocate(&mut self, id: SlotId, range: GfnRange) -> Result<(), NoSlot> {
        let mut slot = self.remove(id)?;
        slot.spec.range = range;
        self.place(slot);
        Ok(())
    }

    /// There is room.
    fn place(&mut self, slot: Slot) {
        let at = self.first_above(slot.spec.space, slot.spec.range.first());
        let name = self.by_name.partition_point(|(name, _)| *name < slot.spec.id);
        self.by_name.iter_mut().filter(|(_, place)| *place >= at).for_each(|entry| entry.1 += 1);
        self.by_name.insert(name, (slot.spec.id, at));
        self.by_page.insert(at, slot);
    }

    /// The place of the first slot that begins above `gfn`.
    #[inline]
    fn first_above(&self, space: AddressSpace, gfn: Gfn) -> usize {
        self.by_page
            .partition_point(|slot| (slot.spec.space, slot.spec.range.first()) <= (space, gfn))
    }

    fn position(&self, id: SlotId) -> Result<usize, NoSlot> {
        Ok(self.by_name[self.name(id)?].1)
    }

    fn name(&self, id: SlotId) -> Result<usize, NoSlot> {
        self.by_name.binary_search_by_key(&id, |(name, _)| *name).map_err(|_| NoSlot(id))
    }
}
