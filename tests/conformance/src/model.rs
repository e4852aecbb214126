//! What the library does, as naively as it can be said: maps of slots, sets of pages, bytes.

mod log;
mod memory;
mod restrictions;
mod rings;
mod used;

pub use log::{Clearing, Log, Pages, Writer};
pub use memory::Contents;
pub use restrictions::{Attempt, Heard, Restrictions, Stays};
pub use rings::{Named, RingShape, Rings, Room};
use used::Meanwhile;
pub use used::{Accessed, Used};

use crate::hypervisor::Home;
use crate::parts::parts;
use std::collections::BTreeMap;
use std::ops::Range;
use vellum_mmu::{
    ChangeSlotError, CreateSlotError, Denial, Initial, LogMode, NoSlot, Origin, SlotAccess,
    SlotSpec, SubPageForm,
};
use vellum_pte::{AddressSpace, Gfn, GfnRange, Gpa, SlotId};

/// A VM: its slots, and what its memory holds.
#[derive(Clone, Debug)]
pub struct Model {
    slots: BTreeMap<SlotId, Slot>,
    /// What its memory holds.
    pub contents: Contents,
    /// Pages whose memory is being changed.
    invalid: Vec<(AddressSpace, GfnRange)>,
    /// All that were since nothing was being changed.
    held_up: Vec<GfnRange>,
    /// What holds for the VM about tracked and restricted pages.
    pub restrictions: Restrictions,
    /// The vCPUs' dirty rings, if they have some.
    pub rings: Option<Rings>,
    shape: Shape,
}

/// What does not change in a VM.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// How many address spaces.
    pub spaces: u16,
    /// The page after the last that can be addressed.
    pub limit: Gfn,
    /// Pages of the largest leaf that host memory allows.
    pub grain: u64,
    /// How maps of sub-pages are enforced.
    pub form: SubPageForm,
}

/// A memslot.
#[derive(Clone, Debug)]
pub struct Slot {
    /// What it is; `log` as it was made.
    pub spec: SlotSpec,
    /// Its log.
    pub log: Option<Log>,
    /// Which of its pages were accessed.
    pub used: Used,
    /// How often its pages are tracked, where they are.
    pub tracked: BTreeMap<u64, u16>,
    /// Which sub-pages of its pages may be written, where not all may.
    pub maps: BTreeMap<u64, u32>,
}

impl Slot {
    /// Where a page of it is in memory.
    #[must_use]
    pub fn home(&self, gfn: Gfn) -> Home {
        Home(self.spec.memory.0 + self.page(gfn))
    }

    /// The place of a page of it.
    #[must_use]
    pub fn page(&self, gfn: Gfn) -> u64 {
        gfn.get() - self.spec.range.first().get()
    }

    /// Where the guest sees those of some pages of memory that it shows.
    fn shows(&self, homes: &Range<Home>) -> Option<GfnRange> {
        let SlotSpec { memory, range, .. } = self.spec;
        let first = homes.start.0.max(memory.0);
        let end = homes.end.0.min(memory.0 + range.pages());
        let gfn = Gfn::new(range.first().get() + first.checked_sub(memory.0)?);
        GfnRange::new(gfn, end.checked_sub(first)?).filter(|range| range.pages() > 0)
    }
}

/// Why the model refuses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// No such slot, or none at the address.
    NoSlot,
    /// The slot or what is behind it is read-only.
    ReadOnly,
    /// Nothing is behind the page.
    NoBacking,
    /// The slot has no log.
    NotLogged,
    /// A map of sub-pages forbids a byte.
    Denied(Denial),
}

/// Whether an access is put off because memory is being changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Retry {
    /// It is.
    Must,
    /// It is, unless the page is mapped: changes elsewhere may hold it up.
    May,
    /// It is not.
    No,
}

impl Model {
    /// Without slots, and with all memory zero.
    #[must_use]
    pub fn new(shape: Shape) -> Self {
        let (slots, contents, invalid, held_up, restrictions) = Default::default();
        Self { slots, contents, invalid, held_up, restrictions, rings: None, shape }
    }

    /// Whether a slot may be created, and whatever stands in its way if not.
    #[must_use]
    pub fn obstacles(&self, spec: &SlotSpec) -> Vec<CreateSlotError> {
        let same = self.slots.get(&spec.id).map(|slot| CreateSlotError::Exists(slot.spec.id));
        self.obstacles_there(spec).into_iter().chain(same).collect()
    }

    /// What stands in the way of a slot where it is to be.
    fn obstacles_there(&self, spec: &SlotSpec) -> Vec<CreateSlotError> {
        let (end, limit) = (spec.range.end(), self.shape.limit);
        if spec.range.pages() == 0 {
            return vec![CreateSlotError::Empty];
        }
        if spec.space.0 >= self.shape.spaces {
            return vec![CreateSlotError::NoSuchSpace(spec.space)];
        }
        if end > limit {
            return vec![CreateSlotError::OutOfReach { end, limit }];
        }
        let others = self.slots.values().map(|slot| slot.spec).filter(|other| other.id != spec.id);
        let there =
            others.filter(|other| other.space == spec.space && other.range.overlaps(spec.range));
        there.map(|other| CreateSlotError::Exists(other.id)).collect()
    }

    /// Adds a slot that nothing stands in the way of.
    pub fn create(&mut self, spec: SlotSpec) {
        let pages = spec.range.pages();
        let log = match spec.log {
            LogMode::Off => None,
            LogMode::On => Some(Log::new(pages, Initial::Clean)),
            LogMode::AllSet => Some(Log::new(pages, Initial::AllSet)),
        };
        let used = Used::new(self.shape.grain);
        let (tracked, maps) = Default::default();
        self.slots.insert(spec.id, Slot { spec, log, used, tracked, maps });
    }

    /// Whether a slot may become `spec`, and whatever stands in its way if not.
    #[must_use]
    pub fn change_obstacles(&self, spec: &SlotSpec) -> Vec<ChangeSlotError> {
        let there = self.obstacles_there(spec).into_iter().map(ChangeSlotError::Place);
        let fixed = |slot: &Slot| {
            let may_change = SlotSpec { range: spec.range, log: spec.log, ..slot.spec };
            may_change != *spec || slot.spec.range.pages() != spec.range.pages()
        };
        let other = match self.slots.get(&spec.id) {
            None => Some(ChangeSlotError::NoSlot(NoSlot(spec.id))),
            Some(slot) => fixed(slot).then_some(ChangeSlotError::Fixed(spec.id)),
        };
        there.chain(other).collect()
    }

    /// Makes a slot what `spec` says, which nothing stands in the way of. Its memory, its log, its
    /// maps and the place of every page in them stay; nobody tracks it where it is now.
    pub fn change(&mut self, spec: SlotSpec) {
        let slot = self.slots.get_mut(&spec.id).expect("nothing stands in the way");
        let before = slot.spec;
        if before.range != spec.range {
            slot.spec.range = spec.range;
            slot.used.forget_all();
            slot.tracked.clear();
            slot.log.iter_mut().for_each(Log::protect);
            self.restrictions.tell(&Heard::removed(&before));
        }
        let slot = self.slots.get_mut(&spec.id).expect("it is there");
        match (&slot.log, spec.log) {
            (None, LogMode::On) => self.start(spec.id, Initial::Clean).expect("it is there"),
            (None, LogMode::AllSet) => self.start(spec.id, Initial::AllSet).expect("it is there"),
            (Some(_), LogMode::Off) => self.stop(spec.id).expect("it is on"),
            _ => {}
        }
    }

    /// Removes a slot.
    ///
    /// # Errors
    /// There is none.
    pub fn delete(&mut self, id: SlotId) -> Result<(), NoSlot> {
        let slot = self.slots.remove(&id).ok_or(NoSlot(id))?;
        self.restrictions.tell(&Heard::removed(&slot.spec));
        Ok(())
    }

    /// Starts a log; one that is on stays.
    ///
    /// # Errors
    /// There is no such slot.
    pub fn start(&mut self, id: SlotId, initial: Initial) -> Result<(), Refusal> {
        let slot = self.slots.get_mut(&id).ok_or(Refusal::NoSlot)?;
        let pages = slot.spec.range.pages();
        slot.log.get_or_insert_with(|| Log::new(pages, initial));
        Ok(())
    }

    /// Stops a log.
    ///
    /// # Errors
    /// No slot, no log.
    pub fn stop(&mut self, id: SlotId) -> Result<(), Refusal> {
        self.log(id)?;
        self.slot(id)?.log = None;
        self.recover(id)
    }

    /// Brings huge leaves back where nothing is logged.
    ///
    /// # Errors
    /// No slot.
    pub fn recover(&mut self, id: SlotId) -> Result<(), Refusal> {
        let memory = if self.held_up.is_empty() { Meanwhile::Stays } else { Meanwhile::Changes };
        let slot = self.slot(id)?;
        if slot.log.is_none() {
            slot.used.recovered(slot.spec.range, memory);
        }
        Ok(())
    }

    /// A slot.
    ///
    /// # Errors
    /// There is none.
    pub fn slot(&mut self, id: SlotId) -> Result<&mut Slot, Refusal> {
        self.slots.get_mut(&id).ok_or(Refusal::NoSlot)
    }

    /// The dirty pages of a slot.
    ///
    /// # Errors
    /// No slot, no log.
    pub fn log(&mut self, id: SlotId) -> Result<&mut Log, Refusal> {
        self.slot(id)?.log.as_mut().ok_or(Refusal::NotLogged)
    }

    /// The slots, by name.
    #[must_use]
    pub fn specs(&self) -> Vec<SlotSpec> {
        self.slots.values().map(|slot| slot.spec).collect()
    }

    /// The slots that have a log.
    #[must_use]
    pub fn logged(&self) -> Vec<SlotId> {
        let logged = self.slots.iter().filter(|(_, slot)| slot.log.is_some());
        logged.map(|(id, _)| *id).collect()
    }

    /// Marks a page, if it is in a slot and logged.
    pub fn mark(&mut self, space: AddressSpace, gfn: Gfn, by: Writer) {
        if let Some(slot) = self.at_mut(space, gfn) {
            let page = slot.page(gfn);
            slot.log.iter_mut().for_each(|log| log.mark(page, by));
        }
    }

    /// Takes out of the log what the guest does not need.
    pub fn forget(&mut self, space: AddressSpace, range: GfnRange) {
        for slot in self.slots.values_mut().filter(|slot| slot.spec.space == space) {
            if let Some(here) = slot.spec.range.intersection(range) {
                let pages = slot.page(here.first())..slot.page(here.first()) + here.pages();
                slot.log.iter_mut().for_each(|log| pages.clone().for_each(|page| log.forget(page)));
            }
        }
    }

    /// What a `GuestWriter` writes. Listeners hear of as much as it was.
    ///
    /// # Errors
    /// The first page that has no slot, a read-only one, or a map that forbids a byte of it: then
    /// nothing is written. The first that nothing writable is behind: then what lies before it is.
    pub fn write(
        &mut self,
        space: AddressSpace,
        gpa: Gpa,
        bytes: &[u8],
        origin: Origin,
    ) -> Result<(), Refusal> {
        parts(gpa, bytes.len()).try_for_each(|part| {
            self.may_write(space, part.at.gfn())?;
            self.first_denied(space, part).map_or(Ok(()), |denial| Err(Refusal::Denied(denial)))
        })?;
        let (written, result) = self.put(space, gpa, bytes, Writer::Seen);
        if written > 0 {
            let bytes = bytes[..written].to_vec();
            self.restrictions.tell(&Heard::Written { space, gpa, bytes, origin });
        }
        result
    }

    /// What a CPU's processor stores, having asked for every page.
    ///
    /// # Panics
    /// There is nothing behind one of them.
    pub fn store(&mut self, cpu: usize, space: AddressSpace, gpa: Gpa, bytes: &[u8]) {
        let by = if self.rings.is_some() { Writer::HasRing } else { Writer::Seen };
        let stored = self.put(space, gpa, bytes, by);
        assert_eq!(stored, (bytes.len(), Ok(())), "the model refuses a store at {gpa}");
        for part in parts(gpa, bytes.len()) {
            let gfn = part.at.gfn();
            self.in_rings(space, gfn, |rings, named, log| rings.store(cpu, named, log));
        }
    }

    /// Writes byte by byte, as far as there is memory. How far that was.
    fn put(
        &mut self,
        space: AddressSpace,
        gpa: Gpa,
        bytes: &[u8],
        by: Writer,
    ) -> (usize, Result<(), Refusal>) {
        for (written, byte) in bytes.iter().enumerate() {
            let at = Gpa::new(gpa.get() + written as u64);
            let home = self.at(space, at.gfn()).map(|slot| slot.home(at.gfn()));
            match home {
                None => return (written, Err(Refusal::NoSlot)),
                Some(home) if !self.contents.is_writable(home) => {
                    return (written, Err(Refusal::NoBacking));
                }
                Some(home) => self.contents.put(home, at.offset(), *byte),
            }
            self.mark(space, at.gfn(), by);
        }
        (bytes.len(), Ok(()))
    }

    fn may_write(&self, space: AddressSpace, gfn: Gfn) -> Result<(), Refusal> {
        match self.at(space, gfn).map(|slot| slot.spec.access) {
            None => Err(Refusal::NoSlot),
            Some(SlotAccess::ReadOnly) => Err(Refusal::ReadOnly),
            Some(SlotAccess::ReadWrite) => Ok(()),
        }
    }

    /// What a guest's load meets, before it is put off.
    ///
    /// # Errors
    /// What is in its way for good.
    pub fn may_load(&self, space: AddressSpace, gfn: Gfn) -> Result<(), Refusal> {
        let home = self.at(space, gfn).ok_or(Refusal::NoSlot)?.home(gfn);
        if self.contents.is_there(home) { Ok(()) } else { Err(Refusal::NoBacking) }
    }

    /// What a processor's own store to a page meets, before it is put off.
    fn may_store(&self, space: AddressSpace, gfn: Gfn) -> Result<(), Refusal> {
        self.may_load(space, gfn)?;
        let home = self.at(space, gfn).ok_or(Refusal::NoSlot)?.home(gfn);
        if self.contents.is_writable(home) { Ok(()) } else { Err(Refusal::ReadOnly) }
    }

    /// Notes an access of the guest.
    pub fn note_use(&mut self, space: AddressSpace, gfn: Gfn, accessed: Accessed) {
        if let Some(slot) = self.at_mut(space, gfn) {
            slot.used.note(gfn, accessed);
        }
    }

    /// Eight bytes as a guest loads them.
    ///
    /// # Errors
    /// No slot there.
    pub fn load(&self, space: AddressSpace, at: Gpa) -> Result<u64, Refusal> {
        let home = self.at(space, at.gfn()).ok_or(Refusal::NoSlot)?.home(at.gfn());
        Ok(self.contents.word(home, at.offset()))
    }

    /// Begins to change what is behind some pages. Where the guest sees them.
    pub fn invalidate(&mut self, homes: &Range<Home>) -> Vec<(AddressSpace, GfnRange)> {
        let shown =
            self.slots.values().filter_map(|slot| Some((slot.spec.space, slot.shows(homes)?)));
        let places: Vec<_> = shown.collect();
        for (space, range) in &places {
            let there = self.slots.values_mut().filter(|slot| slot.spec.space == *space);
            there.for_each(|slot| slot.used.unmapped(*range));
        }
        self.invalid.extend(&places);
        self.held_up.extend(places.iter().map(|(_, range)| *range));
        places
    }

    /// Somebody else took the mappings of a range away, in all spaces, and has ended that.
    pub fn unmapped_by_another(&mut self, range: GfnRange) {
        self.slots.values_mut().for_each(|slot| slot.used.unmapped(range));
        if !self.invalid.is_empty() {
            self.held_up.push(range);
        }
    }

    /// Ends the last that was begun, which had so many places.
    pub fn end_invalidation(&mut self, places: usize) {
        self.invalid.truncate(self.invalid.len() - places);
        if self.invalid.is_empty() {
            self.held_up.clear();
        }
    }

    /// Whether an access there is put off. What is between two changes may be held up with them until
    /// both are over, and what shares a leaf with either.
    #[must_use]
    pub fn retry(&self, space: AddressSpace, gfn: Gfn) -> Retry {
        let inside =
            |(there, range): &(AddressSpace, GfnRange)| *there == space && range.contains(gfn);
        if self.invalid.iter().any(inside) {
            return Retry::Must;
        }
        let leaf = gfn.get() & !(self.shape.grain - 1);
        let first = self.held_up.iter().map(|range| range.first().get()).min();
        let end = self.held_up.iter().map(|range| range.end().get()).max();
        match first.zip(end) {
            Some((first, end)) if first < leaf + self.shape.grain && leaf < end => Retry::May,
            _ => Retry::No,
        }
    }

    fn at(&self, space: AddressSpace, gfn: Gfn) -> Option<&Slot> {
        let there = |slot: &&Slot| slot.spec.space == space && slot.spec.range.contains(gfn);
        self.slots.values().find(there)
    }

    fn at_mut(&mut self, space: AddressSpace, gfn: Gfn) -> Option<&mut Slot> {
        let there = |slot: &&mut Slot| slot.spec.space == space && slot.spec.range.contains(gfn);
        self.slots.values_mut().find(there)
    }
}
